"""The ledger's tables. Migrations in `migrations/` make them; a test compares the two.

Times are epoch seconds (floats). JSON is text: the ledger never looks inside it. Every table but `secret` and `member`
carries the account, and a statement about users, names or addresses says which. A statement that has the id of a
campaign, run, chunk or device needs no account, for these ids are unique over all of them; what is due, leased or too
old is found over all accounts by state and time.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

metadata = MetaData()

# SQLite gives a row id by itself only to INTEGER, PostgreSQL needs BIGINT to last.
RowId = BigInteger().with_variant(Integer, "sqlite")

# The rows of partial indexes. A query says it in the same words and without parameters, or neither engine takes them.
COUNTED_REQUEST = "open = 1 AND run_id IS NULL AND size > 0"  # open, and its recipients are known
ENDED_REQUEST = "open = 0 AND run_id IS NULL"
UNCLEANED_RUN = "cleaned_at IS NULL"
FREE_CHUNK = "open = 1 AND lease_owner IS NULL"
COUNTED_ANSWER = "answer_bytes > 0"


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


secret = Table(
    "secret",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

account = Table(
    "account",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_user", Integer, nullable=False),  # user ids are dense per account: they make small bitmaps
)

passcode = Table(
    "passcode",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("account_id", String(32), nullable=False, index=True),
    Column("digest", LargeBinary, nullable=False),  # SHA-256: the passcode itself is 160 random bits
    Column("label", Text, nullable=False),
    Column("rights", String(64), nullable=False, server_default="all"),  # account.Right, with commas
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

# Somebody who uses the dashboard. `user` are the people whom messages are for.
member = Table(
    "member",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("password", Text, nullable=False),  # argon2id, with its salt and costs
    Column("created_at", Float, nullable=False),
)

membership = Table(
    "membership",
    metadata,
    Column("member_id", RowId, primary_key=True, autoincrement=False),
    Column("account_id", String(32), primary_key=True),
    Column("role", String(16), nullable=False),  # authenticator.members.Role
    Column("created_at", Float, nullable=False),
)

# A member who is logged in, and the account they look at.
session = Table(
    "session",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the cookie's token
    Column("member_id", RowId, nullable=False, index=True),
    Column("account_id", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
)

# A link that a mail brought, to join an account or to choose another password.
ticket = Table(
    "ticket",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of its token
    Column("kind", String(16), nullable=False),  # authenticator.tickets.Kind
    Column("email", String(254), nullable=False),
    Column("account_id", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float),
    Column("who", String(254), nullable=False, server_default=""),  # whoever invited
    Index("ticket_of_email", "email", "created_at"),
    Index("ticket_of_account", "account_id", "created_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("account_id", String(32), nullable=False),
    Column("at", Float, nullable=False),
    Column("who", String(254), nullable=False),
    Column("what", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Index("audit_of_account", "account_id", "id"),
)

# Unfinished campaigns, as the fields of their form.
draft = Table(
    "draft",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("account_id", String(32), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("fields", Text, nullable=False),  # JSON
    Column("who", String(254), nullable=False),
    Column("changed_at", Float, nullable=False),
)

provider = Table(
    "provider",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", String(16), primary_key=True),
    Column("settings", Text, nullable=False),  # JSON, or encrypted: providers/encryption.py
    Column("trusted", Integer, nullable=False, server_default="0"),  # 1: who a vendor calls dead is dead, however many
    Column("changed_at", Float, nullable=False),
)

# Where an account's outcomes, reports and opt-outs are posted. `live` and `replay` are what is left to
# post (stats.webhooks.feed.FeedWindow as JSON).
webhook = Table(
    "webhook",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("id", String(16), primary_key=True),
    Column("url", String(2048), nullable=False),
    Column("events", Text, nullable=False),  # with commas
    Column("settings", Text, nullable=False),  # stats.webhooks.endpoint.WebhookSecrets as JSON, or encrypted
    Column("created_at", Float, nullable=False),
    Column("live", Text),  # NULL: nothing is kept for it yet
    Column("replay", Text),
    Column("failing_since", Float),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("next_at", Float),  # not tried again before
    Column("answer", String(300), nullable=False, server_default=""),  # the last one
    Column("answered_at", Float),
    Column("disabled_at", Float),
    Column("lease_owner", String(64)),
    Column("lease_until", Float),
)

# Accounts that are exported as Parquet. The times are the facts store's, in microseconds.
warehouse = Table(
    "warehouse",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("done_until", BigInteger),  # what was stored before is in files; NULL: not begun
    Column("writing_until", BigInteger),  # the end of the window whose files are being written
    Column("rows", BigInteger, nullable=False, server_default="0"),
    Column("written_at", Float),
    Column("trouble", String(300), nullable=False, server_default=""),  # why the last window was not written
    Column("lease_owner", String(64)),
    Column("lease_until", Float),
)

# How far an account's events were looked at for conversions, in microseconds of the facts store's clock.
conversion_place = Table(
    "conversion_place",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("looked_until", BigInteger, nullable=False),
)

user = Table(
    "user",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("profile", Text, nullable=False),
    Column("version", Integer, nullable=False),  # the copy in the facts store with the highest version counts
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

# The names of an account's events and properties, which the facts store has a column for each of; bounded in number.
known_name = Table(
    "known_name",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("kind", String(32), primary_key=True),  # ingest.names.KINDS
)

identity = Table(
    "identity",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("value", String(1024), primary_key=True),
    Column("user_id", Integer, nullable=False),
    Index("identity_of_user", "account_id", "user_id"),
)

device = Table(
    "device",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("account_id", String(32), nullable=False),
    Column("user_id", Integer, nullable=False),
    Column("object_id", String(256), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("token", String(2048), nullable=False),
    Column("registered_at", Float, nullable=False),
    Column("gone_at", Float),
    Column("gone_code", String(128)),
    Column("gone_user", Integer),  # whose device it was when it died: its objectId may move to another user afterwards
    Column("gone_campaign", Integer),  # whose message found out; 0: a `/1/send` request
    UniqueConstraint("account_id", "kind", "token", name="device_token"),
    Index("device_of_user", "account_id", "user_id"),
    Index("device_of_object", "account_id", "object_id"),
)

# A device that wants no push: a choice of the objectId, for all its tokens and whichever user has it.
device_opt_out = Table(
    "device_opt_out",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("object_id", String(256), primary_key=True),
    Column("since", Float, nullable=False),
)

# Apps with CleverTap's SDK. Their tokens are in every copy of the app, so they are no secret.
app = Table(
    "app",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("sdk_id", String(16), nullable=False),  # what the SDK calls the account
    Column("token", String(64), nullable=False),
    Column("platforms", String(32), nullable=False),  # authenticator.apps.APP_PLATFORMS, with commas
    Column("created_at", Float, nullable=False),
)

# When a device last said who uses it, by its own clock, and of how many people it said so.
app_device = Table(
    "app_device",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("object_id", String(256), primary_key=True),
    Column("named_at", Float, nullable=False),
    Column("people", Integer, nullable=False),
)

# What the SDKs told of a user: ingest.sdk.told.Told as JSON.
app_profile = Table(
    "app_profile",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("user_id", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
)

# Anonymous people, known by a device alone, whose device turned out to be somebody's: who is deleted with that one.
former_user = Table(
    "former_user",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("former_id", Integer, primary_key=True, autoincrement=False),
    Column("user_id", Integer, nullable=False),
    Index("ix_former_user_of_user", "account_id", "user_id"),
)

# People who were deleted: their numbers, until the facts store and closed chunks have nothing of them any more.
leaver = Table(
    "leaver",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("user_id", Integer, primary_key=True, autoincrement=False),
    Column("asked_at", Float, nullable=False),
    Column("erased_at", Float),  # the first time; what was under way then is erased the second time
)

# Unsubscribed addresses, whichever users have them.
unsubscribed = Table(
    "unsubscribed",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("kind", String(8), primary_key=True),  # email, phone
    Column("address", String(1024), primary_key=True),  # of somebody who was deleted: its digest
    Column("since", Float, nullable=False),
    Column("reason", String(16), nullable=False, server_default=""),  # link, complaint, API, event; "": from before
    Column("user_id", Integer),  # whose mail's link or complaint it was: they may come back by their profile
)

# Subscription groups that mailboxes left, whichever users have them.
group_left = Table(
    "group_left",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("address", String(1024), primary_key=True),  # of somebody who was deleted: its digest
    Column("name", String(128), primary_key=True),
    Column("since", Float, nullable=False),
    Column("user_id", Integer),  # whose mail's link it was: they may come back by their profile
)

# When users who had left e-mail came back: a link in a mail from before then does not take them off again.
returned = Table(
    "returned",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("user_id", Integer, primary_key=True, autoincrement=False),
    Column("since", Float, nullable=False),
)

# Answers by a caller's Idempotency-Key, kept for a day.
idempotency = Table(
    "idempotency",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("digest", LargeBinary, nullable=False),  # of the path and the body
    Column("answer", Text, nullable=False),  # JSON; "" while there is none, and of `/1/send`, which has only one
    Column("answer_bytes", Integer, nullable=False, server_default="0"),  # of an answer that counts for the bound
    Column("stored", Integer, nullable=False, server_default="0"),  # 1: the ledger has an upload, facts may not
    Column("created_at", Float, nullable=False, index=True),
    _partial("idempotency_answers", "account_id", "answer_bytes", where=COUNTED_ANSWER),
)

# An account's own settings as JSON by name: caps, limits, control, conversion, retention, apps.
policy = Table(
    "policy",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
    Column("changed_at", Float, nullable=False),
)

# A message that counts against the caps of a user, from its claim on; given back when it was not sent.
reservation = Table(
    "reservation",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("channel", String(16), primary_key=True),
    Column("user_id", Integer, primary_key=True, autoincrement=False),
    Column("message", String(24), primary_key=True),  # the run or request: on two platforms it is one message
    Column("platform", Integer, primary_key=True, autoincrement=False),
    Column("campaign_id", Integer, nullable=False),
    Column("at", Float, nullable=False, index=True),
    Column("counted", Integer, nullable=False),  # 0: for the campaign's own cap only
)

# Messages claimed in each slot of ten seconds, for the throttle.
rate_window = Table(
    "rate_window",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("channel", String(16), primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("used", Integer, nullable=False),
)

# Requests under way at an endpoint that several processes serve; the row without an id says when the next may come.
concurrency_slot = Table(
    "concurrency_slot",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", String(16), primary_key=True),
    Column("id", String(32), primary_key=True),
    Column("until", Float, nullable=False),
)

segment = Table(
    "segment",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("where_json", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
)

tag_group = Table(
    "tag_group",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("created_at", Float, nullable=False),
)

campaign = Table(
    "campaign",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # signed 32 bits: clients parse it as int
    Column("account_id", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("channel", String(16), nullable=False),
    Column("spec", Text, nullable=False),  # campaign.Spec as JSON: a snapshot, never edited
    Column("goal", Text),  # its conversion goal, as in the spec
    Column("created_at", Float, nullable=False),
    Index("campaign_of_account", "account_id", "created_at"),
)

# The labels of campaigns, as in their specs.
campaign_label = Table(
    "campaign_label",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("campaign_id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(120), primary_key=True),
)

run = Table(
    "run",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("account_id", String(32), nullable=False),
    Column("campaign_id", Integer, nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("due_at", Float, nullable=False),
    Column("retry_at", Float),  # a run that could not begin is not tried again before
    Column("audience", Integer, nullable=False),
    Column("frozen_at", Float),
    Column("ended_at", Float),  # every recipient is in a final state
    Column("local", String(16)),  # its wall-clock time, YYYY-MM-DDTHH:MM; NULL: a run from before there were any
    Column("number", Integer, nullable=False, server_default="1"),  # of a recurring campaign's runs
    Column("cleaned_at", Float),  # its chunks hold no recipients any more, only their numbers
    Column("users", Integer),  # of its audience, where its campaign limits them over all runs
    Index("run_due", "state", "due_at"),
    Index("run_of_account", "account_id", "due_at"),
    _partial("run_uncleaned", "account_id", "ended_at", where=UNCLEANED_RUN),
)

# Recipients of closed chunks by the state they ended in: of sends by identity by tag group, of runs by variant.
tag_sum = Table(
    "tag_sum",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("tag_group", String(256), primary_key=True),
    Column("state", Integer, primary_key=True, autoincrement=False),
    Column("recipients", BigInteger, nullable=False),
)

run_sum = Table(
    "run_sum",
    metadata,
    Column("run_id", RowId, primary_key=True, autoincrement=False),
    Column("variant", String(16), primary_key=True),
    Column("state", Integer, primary_key=True, autoincrement=False),
    Column("account_id", String(32), nullable=False),
    Column("recipients", BigInteger, nullable=False),
)

# The same recipients by every column that a report has.
recipient_sum = Table(
    "recipient_sum",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("campaign_id", Integer, primary_key=True, autoincrement=False),  # 0, as the run: sends by identity
    Column("run_id", RowId, primary_key=True, autoincrement=False),
    Column("channel", String(16), primary_key=True),
    Column("variant", String(16), primary_key=True),
    Column("tag_group", String(256), primary_key=True),
    Column("platform", Integer, primary_key=True, autoincrement=False),  # channels.PLATFORM_CODES
    Column("state", Integer, primary_key=True, autoincrement=False),
    Column("code", Text, primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),  # when it began, by the account's clocks
    Column("day", String(10), nullable=False),  # in which the hour is there
    Column("recipients", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Campaigns, 0: sends by identity, that have closed chunks which are not in `recipient_sum`.
unsummed = Table(
    "unsummed",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("campaign_id", Integer, primary_key=True, autoincrement=False),
)

chunk = Table(
    "chunk",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("account_id", String(32), nullable=False),
    Column("run_id", RowId),  # NULL: a `/1/send` request
    Column("campaign_id", Integer, nullable=False),  # 0: a `/1/send` request
    Column("channel", String(16), nullable=False),
    Column("tag_group", String(256), nullable=False),
    Column("priority", Integer, nullable=False),  # 0 before 1: transactional sends overtake campaigns
    Column("resend", Integer, nullable=False, server_default="0"),  # 1: what nobody knows about is sent again
    Column("open", Integer, nullable=False),  # 1 until every recipient is final and recorded
    Column("not_before", Float, nullable=False),  # of a closed one: when it was closed
    Column("expires_at", Float, nullable=False),
    Column("cut_off", Float),  # nothing is sent after it
    Column("variant", String(16), nullable=False, server_default=""),
    Column("started_at", Float),  # the first lease: the time of outcomes settled on the first try
    Column("lease_owner", String(64)),
    Column("lease_until", Float),
    Column("request", Text),  # a `/1/send` body; the worker looks its people up, and leaves out their names then
    Column("users", LargeBinary, nullable=False),  # uint32 little-endian a recipient
    Column("platforms", LargeBinary, nullable=False),  # one byte a recipient
    Column("states", LargeBinary, nullable=False),  # one byte a recipient: outcome.State
    Column("notes", Text, nullable=False),  # {position: {tries, code, not_before}} of those not plainly accepted
    Column("size", Integer, nullable=False),
    Column("sent", Integer, nullable=False),
    Column("unknown", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("suppressed", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    _partial("chunk_due", "priority", "not_before", "id", where=FREE_CHUNK),
    _partial("chunk_due_of_account", "priority", "account_id", "not_before", "id", where=FREE_CHUNK),
    _partial("chunk_held", "id", where="lease_owner IS NOT NULL"),
    _partial("chunk_of_run", "run_id", "open", where="run_id IS NOT NULL"),
    _partial("chunk_counted", "account_id", "tag_group", where=COUNTED_REQUEST),
    _partial("chunk_ended", "account_id", "not_before", where=ENDED_REQUEST),
)

# When a view or click of a message was first reported: the time of its event, however often it is reported again.
interaction = Table(
    "interaction",
    metadata,
    Column("chunk_id", RowId, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), primary_key=True),
    Column("account_id", String(32), nullable=False),
    Column("at", Float, nullable=False, index=True),
)

# «open = 1» as a condition, written out: a bound value would not find the partial index.
chunk_is_open = chunk.c.open == literal_column("1")
