"""People and events page by page, as they are read back: cursors, records, one page's bytes."""
