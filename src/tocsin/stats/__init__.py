"""Stage 7 of 7, stats: the numbers of campaigns, tag groups and labels, their conversions, and what is read back."""
