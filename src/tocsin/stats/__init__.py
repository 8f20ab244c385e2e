"""Stage 7 of 7: questions with answers: results, tag groups, conversions."""
