"""Stage 3 of 7, campaign: what was asked for (campaigns, their runs, sends by identity), when it is due and to whom."""
