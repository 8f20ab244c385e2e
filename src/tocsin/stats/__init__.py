"""Stage 7 of 7, stats: the numbers of campaigns, variants, tag groups and labels, and their conversions."""
