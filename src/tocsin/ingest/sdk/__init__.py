"""What CleverTap's client SDKs report: read, judged, and stored as records of the device's person."""
