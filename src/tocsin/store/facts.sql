-- The facts store. The same statements make it in chDB (in process) and on a ClickHouse server.
-- Every table begins its order with the account; every query names it. Writing a row twice is writing it once: each
-- engine keeps one row per key, and readers say FINAL or count distinct.

-- What people did. `day` is the day in the account's time zone; `props` has its keys escaped (store/facts.py).
CREATE TABLE IF NOT EXISTS event
(
    account LowCardinality(String),
    name    LowCardinality(String),
    day     Date,
    user    UInt32,
    at      DateTime('UTC'),
    id      UInt64,
    props   JSON
)
ENGINE = ReplacingMergeTree
ORDER BY (account, name, day, user, at, id);

-- What people are: a copy of the ledger's profile that can be queried. The highest version of a user counts.
-- android, ios, windows, email: 0 never had one, 1 reachable there, 2 had one but is not (dead token, opted out).
CREATE TABLE IF NOT EXISTS profile
(
    account LowCardinality(String),
    user    UInt32,
    version UInt32,
    android UInt8,
    ios     UInt8,
    windows UInt8,
    email   UInt8,
    props   JSON
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (account, user);

-- What came of every recipient, written when it is final. `campaign` is 0 for a send by identity.
CREATE TABLE IF NOT EXISTS outcome
(
    account   LowCardinality(String),
    campaign  UInt32,
    chunk     UInt64,
    position  UInt16,
    user      UInt32,
    platform  LowCardinality(String),
    channel   LowCardinality(String),
    outcome   LowCardinality(String),
    code      LowCardinality(String),
    tag_group LowCardinality(String),
    day       Date,
    at        DateTime('UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (account, campaign, chunk, position);

-- `Notification Sent` is an event like any other, so that a `where` can ask for it.
CREATE MATERIALIZED VIEW IF NOT EXISTS outcome_to_event TO event AS
SELECT
    account,
    'Notification Sent' AS name,
    day,
    user,
    at,
    chunk * 65536 + position AS id,
    CAST(
        concat(
            '{"Campaign id":', toString(campaign),
            ',"Channel":', toJSONString(toString(channel)),
            ',"Platform":', toJSONString(toString(platform)),
            ',"Tag group":', toJSONString(toString(tag_group)), '}'),
        'JSON') AS props
FROM outcome
WHERE outcome = 'accepted';
