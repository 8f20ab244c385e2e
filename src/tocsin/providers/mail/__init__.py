"""One mail: written as MIME, signed with DKIM, sent to the relay by SMTP."""
