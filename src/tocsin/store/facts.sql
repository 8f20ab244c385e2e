-- The facts store. The same statements make it in chDB (in process) and on a ClickHouse server.
-- Every table begins its order with the account; every query names it. Writing a row twice is writing it once: each
-- engine keeps one row per key, and readers say FINAL or count distinct.

-- What people did. `day` is the day in the account's time zone; `raw` the properties as they came; `props` the same as
-- they are asked for (store/props.py).
CREATE TABLE IF NOT EXISTS event
(
    account LowCardinality(String),
    name    LowCardinality(String),
    day     Date,
    user    UInt32,
    at      DateTime('UTC'),
    id      UInt64,
    props   JSON,
    raw     String CODEC(ZSTD(3)),
    INDEX by_user user TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree
ORDER BY (account, name, day, user, at, id);

-- Of a store from before there was one. What is there has it from its next merge on.
ALTER TABLE event ADD INDEX IF NOT EXISTS by_user user TYPE bloom_filter(0.01) GRANULARITY 1;

-- Who raised an event on a day, kept on every insert: one bitmap instead of the day's events. Or-ing a user twice is
-- once, so a repeated insert changes nothing. A bitmap is large: with the default 8,192 rows a granule, one day would
-- be read with all others.
CREATE TABLE IF NOT EXISTS activity
(
    account LowCardinality(String),
    name    LowCardinality(String),
    day     Date,
    users   AggregateFunction(groupBitmap, UInt32)
)
ENGINE = AggregatingMergeTree
ORDER BY (account, name, day)
SETTINGS index_granularity = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_to_activity TO activity AS
SELECT account, name, day, groupBitmapState(user) AS users
FROM event
GROUP BY account, name, day;

-- What people are: a copy of the ledger's profile that can be queried. The highest version of a user counts.
-- android, ios, windows, email, sms, webpush: 0 never had one, 1 reachable there, 2 had one but is not (dead token, opted out).
-- reach: the six as bits of those where a message would get to, so that counting them reads one byte a person.
-- latitude, longitude: degrees, nan for those whose place is not known.
-- zone: the user's own time zone as the profile names it, '' for none that is known; '?': this copy does not say.
CREATE TABLE IF NOT EXISTS profile
(
    account   LowCardinality(String),
    user      UInt32,
    version   UInt32,
    android   UInt8,
    ios       UInt8,
    windows   UInt8,
    email     UInt8,
    sms       UInt8,
    webpush   UInt8,
    latitude  Float32 CODEC(NONE),
    longitude Float32 CODEC(NONE),
    zone      LowCardinality(String) DEFAULT '?',
    props     JSON,
    reach     UInt8 MATERIALIZED (android = 1) + 2 * (ios = 1) + 4 * (windows = 1) + 8 * (email = 1)
        + 16 * (sms = 1) + 32 * (webpush = 1)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (account, user);

-- Of a store from before there were these channels; `tocsin repair` fills them in.
ALTER TABLE profile ADD COLUMN IF NOT EXISTS sms UInt8 AFTER email;

ALTER TABLE profile ADD COLUMN IF NOT EXISTS webpush UInt8 AFTER sms;

ALTER TABLE profile MODIFY COLUMN reach UInt8 MATERIALIZED (android = 1) + 2 * (ios = 1) + 4 * (windows = 1)
    + 8 * (email = 1) + 16 * (sms = 1) + 32 * (webpush = 1);

-- Of a store from before there was this column; who has none in their copy is looked up in the ledger until `tocsin repair`.
ALTER TABLE profile ADD COLUMN IF NOT EXISTS zone LowCardinality(String) DEFAULT '?' AFTER longitude;

-- What came of every recipient, written when it is final. `campaign` is 0 for a send by identity,
-- `variant` '' for a campaign without any.
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
    variant   LowCardinality(String),
    day       Date,
    at        DateTime('UTC'),
    INDEX by_user user TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree
ORDER BY (account, campaign, chunk, position);

-- Of a store from before there was one, as of `event`.
ALTER TABLE outcome ADD INDEX IF NOT EXISTS by_user user TYPE bloom_filter(0.01) GRANULARITY 1;

-- Of a store from before outcomes had it.
ALTER TABLE outcome ADD COLUMN IF NOT EXISTS variant LowCardinality(String) AFTER tag_group;

-- `Notification Sent` is an event like any other, so that a `where` can ask for it; its props as encode_props makes them.
-- Of who was deleted there is none: their outcome is user 0's.
-- What the view selects is set each time a store is opened: an older one has another.
CREATE MATERIALIZED VIEW IF NOT EXISTS outcome_to_event TO event AS
SELECT account, day, user, at FROM outcome WHERE 0;

ALTER TABLE outcome_to_event MODIFY QUERY
WITH if(variant = '', 'default', variant) AS shown
SELECT
    account,
    'Notification Sent' AS name,
    day,
    user,
    at,
    chunk * 65536 + position AS id,
    CAST(
        concat(
            '{"Campaign id":', toString(campaign), '.0',
            ',"Variant":', toJSONString(concat(char(31), normalizeUTF8NFC(caseFoldUTF8(shown)), char(31))),
            ',"Channel":', toJSONString(concat(char(31), normalizeUTF8NFC(caseFoldUTF8(channel)), char(31))),
            ',"Platform":', toJSONString(concat(char(31), normalizeUTF8NFC(caseFoldUTF8(platform)), char(31))),
            ',"Tag group":', toJSONString(concat(char(31), normalizeUTF8NFC(caseFoldUTF8(tag_group)), char(31))), '}'),
        'JSON') AS props,
    concat(
        '{"Campaign id":', toString(campaign),
        ',"Variant":', toJSONString(toString(shown)),
        ',"Channel":', toJSONString(toString(channel)),
        ',"Platform":', toJSONString(toString(platform)),
        ',"Tag group":', toJSONString(toString(tag_group)), '}') AS raw
FROM outcome
WHERE outcome = 'accepted' AND user != 0;

-- Messages that were viewed and clicked, by people and by machines, kept on every insert, so that nobody counts the events. A message reported
-- twice is one id. The ids of a campaign are many, so each is read without the others.
CREATE TABLE IF NOT EXISTS interaction
(
    account   LowCardinality(String),
    campaign  UInt32,
    name      LowCardinality(String),
    tag_group String,
    variant   String,
    messages  AggregateFunction(uniqExact, UInt64)
)
ENGINE = AggregatingMergeTree
ORDER BY (account, campaign, name, tag_group, variant)
SETTINGS index_granularity = 1;

-- What the view selects is set each time a store is opened: an older one does not know the machines.
CREATE MATERIALIZED VIEW IF NOT EXISTS event_to_interaction TO interaction AS
SELECT account, name FROM event WHERE 0;

ALTER TABLE event_to_interaction MODIFY QUERY
SELECT
    account,
    accurateCastOrNull(props.`Campaign id`.:Float64, 'UInt32') AS campaign,
    name,
    JSONExtractString(raw, 'Tag group') AS tag_group,
    JSONExtractString(raw, 'Variant') AS variant,
    uniqExactState(id) AS messages
FROM event
WHERE name IN ('Notification Viewed', 'Notification Clicked',
        'Notification Viewed by Machine', 'Notification Clicked by Machine')
    AND accurateCastOrNull(props.`Campaign id`.:Float64, 'UInt32') IS NOT NULL
GROUP BY account, campaign, name, tag_group, variant;

-- Of a store from before there was this table. Once it has rows, nothing is read here.
INSERT INTO interaction
SELECT
    account,
    accurateCastOrNull(props.`Campaign id`.:Float64, 'UInt32') AS campaign,
    name,
    JSONExtractString(raw, 'Tag group') AS tag_group,
    JSONExtractString(raw, 'Variant') AS variant,
    uniqExactState(id) AS messages
FROM event
WHERE name IN ('Notification Viewed', 'Notification Clicked')
    AND accurateCastOrNull(props.`Campaign id`.:Float64, 'UInt32') IS NOT NULL
    AND (SELECT count() FROM interaction) = 0
GROUP BY account, campaign, name, tag_group, variant;

-- The accounts for which `feed` is written; the highest `changed` counts. `active`: 0 not any more, 1 for webhooks, 3 with
-- every event.
CREATE TABLE IF NOT EXISTS listener
(
    account LowCardinality(String),
    changed UInt64,
    active  UInt8
)
ENGINE = ReplacingMergeTree(changed)
ORDER BY (account);

-- What webhooks are told and exports write, in the order it was stored: `stored` is in microseconds by the store's clock. Of a row that is
-- stored again the first one is kept, so that it has one place. `id` is the event's; of a message chunk * 65536 + position.
CREATE TABLE IF NOT EXISTS feed
(
    account LowCardinality(String),
    id      UInt64,
    type    LowCardinality(String),
    user    UInt32,
    stored  UInt64,
    age     UInt64 MATERIALIZED 18446744073709551615 - stored,
    at      DateTime('UTC'),
    detail  String CODEC(ZSTD(3)),
    INDEX by_time stored TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(age)
ORDER BY (account, id, type, user)
TTL toDateTime(intDiv(stored, 1000000), 'UTC') + INTERVAL 31 DAY;

-- The views of the feed are made when the first account listens (store/facts.py).
-- What is older is no news, nor what is of who was deleted (user 0): a repair stores it again.
CREATE MATERIALIZED VIEW IF NOT EXISTS outcome_to_feed TO feed AS
SELECT
    account,
    chunk * 65536 + position AS id,
    multiIf(outcome = 'accepted', 'outcome.sent', outcome = 'unknown', 'outcome.unknown',
        outcome = 'suppressed', 'outcome.suppressed', 'outcome.failed') AS type,
    user,
    toUInt64(toUnixTimestamp64Micro(now64(6))) AS stored,
    at,
    concat(
        '{"Campaign id":', toString(campaign),
        ',"Variant":', toJSONString(if(variant = '', 'default', toString(variant))),
        ',"Channel":', toJSONString(toString(channel)),
        ',"Platform":', toJSONString(toString(platform)),
        ',"Tag group":', toJSONString(toString(tag_group)),
        ',"Outcome":', toJSONString(toString(outcome)),
        ',"Code":', toJSONString(toString(code)), '}') AS detail
FROM outcome
WHERE account IN (SELECT account FROM listener FINAL WHERE active) AND at > now() - INTERVAL 30 DAY
    AND (user != 0 OR code = 'not found');

CREATE MATERIALIZED VIEW IF NOT EXISTS event_to_feed TO feed AS
SELECT
    account,
    id,
    transform(toString(name),
        ['Notification Viewed', 'Notification Clicked', 'Channel Unsubscribed', 'Channel Resubscribed', 'Mail Bounced'],
        ['interaction.viewed', 'interaction.clicked', 'consent.unsubscribed', 'consent.resubscribed', 'consent.bounced'],
        '') AS type,
    user,
    toUInt64(toUnixTimestamp64Micro(now64(6))) AS stored,
    at,
    raw AS detail
FROM event
WHERE name IN ('Notification Viewed', 'Notification Clicked', 'Channel Unsubscribed', 'Channel Resubscribed', 'Mail Bounced')
    AND account IN (SELECT account FROM listener FINAL WHERE active) AND at > now() - INTERVAL 30 DAY;

-- All other events, of whatever time, for the accounts that are exported or told of conversions. What was sent is an
-- outcome.
CREATE MATERIALIZED VIEW IF NOT EXISTS other_event_to_feed TO feed AS
SELECT
    account,
    id,
    concat('event.', toString(name)) AS type,
    user,
    toUInt64(toUnixTimestamp64Micro(now64(6))) AS stored,
    at,
    raw AS detail
FROM event
WHERE name NOT IN ('Notification Viewed', 'Notification Clicked', 'Channel Unsubscribed', 'Channel Resubscribed',
        'Mail Bounced', 'Notification Sent')
    AND account IN (SELECT account FROM listener FINAL WHERE bitAnd(active, 2) != 0);
