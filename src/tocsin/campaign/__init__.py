"""Stage 3 of 7: what was asked for (campaigns, their runs, sends by identity), and when and to whom it is due."""
