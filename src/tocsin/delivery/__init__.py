"""Stage 4 of 7, delivery: workers claim windows of the queue's chunks, senders hand them over, receipts settle them."""
