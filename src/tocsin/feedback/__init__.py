"""Stage 6 of 7, feedback: views, clicks, unsubscribes, bounces and complaints, recorded and applied."""
