"""The two stores: the ledger is the truth for people, devices, campaigns and delivery; facts is what can be asked."""
