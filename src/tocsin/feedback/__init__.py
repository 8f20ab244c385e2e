"""Stage 6 of 7: what comes back: views, clicks, unsubscribes, bounces."""
