"""The benchmarks of docs/benchmarks.md: each number beside the thing it is compared with, from the same run.

They belong to the source tree, not to the installed package. In a checkout:

    make setup
    .venv/bin/tocsin bench accept --recipients 1000 --seconds 20
    .venv/bin/tocsin bench dispatch --audience 200000          (--email: mails)
    .venv/bin/tocsin bench dispatch --audience 200000 --latency 0.1 --tail 0.01:2 --tail 0.001:10
    .venv/bin/tocsin bench transactional --seconds 60           (--email: mails; --beside 200000: beside a campaign)
    .venv/bin/tocsin bench audience --users 2000000 --events 50000000
    .venv/bin/tocsin bench ingest --records 50000

`--json` prints the readings as one object. Every benchmark makes its own data in a temporary folder, starts a server
there and stays on loopback. `dispatch` sends to nghttpd and is compared with h2load (Debian: nghttp2), its mails go to
smtp-sink (Debian: postfix); where these are missing the sandbox takes their place. `dispatch --tail` and
`transactional` send to sinks of ours, which can answer late and note when they answered which message. `audience`
compares with DuckDB and PostgreSQL, which `make setup` installs.

acceptance, delivery, tails, transactional, audience, ingest: one benchmark each. reading: a number and how it is
printed. server: a Tocsin to measure. load, pacer: HTTP callers, without and with a time at which each request is due.
sink: where messages go; timed_sink: a sink of ours, which is answering (its loop), push_sink and mail_sink (its
protocols), stamps (its notes). trial: requests beside those notes. relay: a loop that stores nothing. rows, rivals: the
data of `audience` and its competitors.
"""
