"""A script that makes a facts store as an earlier version did, in the folder it is given."""

# The tables of 0.1.0 before there were `zone` and `variant`, as far as a row needs them.
OLD = """
import sys
from tocsin.store.facts_line import connect

client = connect("chdb://" + sys.argv[1])
for statement in '''
CREATE TABLE event (account LowCardinality(String), name LowCardinality(String), day Date, user UInt32,
    at DateTime('UTC'), id UInt64, props JSON, raw String CODEC(ZSTD(3)))
    ENGINE = ReplacingMergeTree ORDER BY (account, name, day, user, at, id);
CREATE TABLE profile (account LowCardinality(String), user UInt32, version UInt32, android UInt8, ios UInt8,
    windows UInt8, email UInt8, sms UInt8, webpush UInt8, latitude Float32 CODEC(NONE), longitude Float32 CODEC(NONE),
    props JSON, reach UInt8 MATERIALIZED (android = 1)) ENGINE = ReplacingMergeTree(version) ORDER BY (account, user);
CREATE TABLE outcome (account LowCardinality(String), campaign UInt32, chunk UInt64, position UInt16, user UInt32,
    platform LowCardinality(String), channel LowCardinality(String), outcome LowCardinality(String),
    code LowCardinality(String), tag_group LowCardinality(String), day Date, at DateTime('UTC'))
    ENGINE = ReplacingMergeTree ORDER BY (account, campaign, chunk, position);
CREATE MATERIALIZED VIEW outcome_to_event TO event AS
    SELECT account, 'Notification Sent' AS name, day, user, at, chunk * 65536 + position AS id,
    CAST('{"Variant":"\\\\u001fdefault\\\\u001f"}', 'JSON') AS props, '{"Variant":"default"}' AS raw
    FROM outcome WHERE outcome = 'accepted';
INSERT INTO profile (account, user, version, android, props) VALUES ('a', 1, 3, 1, '{}');
INSERT INTO outcome (account, chunk, user, outcome) VALUES ('a', 1, 1, 'accepted')
'''.split(";"):
    client.command(statement)
client.close()
"""
