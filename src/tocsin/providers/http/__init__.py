"""One request to a vendor over libcurl, and what can be sworn about it."""
