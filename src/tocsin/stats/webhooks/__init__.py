"""Webhooks: an account's outcomes, views, clicks and opt-outs, posted to its endpoints in the order they came."""
