"""Tocsin: notification campaigns a company runs itself, over CleverTap's API."""
