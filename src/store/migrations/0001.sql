-- The schema of a wecom-dirsync database, version 1. Times are unix seconds; times called event_time or
-- said to be WeCom's are on WeCom's clock, all others on this machine's.

-- Who is, or was, in the company. userid compares ignoring case, as WeCom does.
CREATE TABLE members (
    userid          TEXT NOT NULL PRIMARY KEY COLLATE NOCASE CHECK (length(userid) BETWEEN 1 AND 64),
    -- null: WeCom never said; '': WeCom said that it is empty
    name            TEXT,
    alias           TEXT,
    mobile          TEXT,
    telephone       TEXT,
    email           TEXT,
    biz_mail        TEXT,
    position        TEXT,
    gender          INTEGER,            -- 0 unknown, 1 male, 2 female
    status          INTEGER,            -- 1 activated, 2 disabled, 4 not activated, 5 left
    avatar          TEXT,
    address         TEXT,
    main_department INTEGER,
    direct_leader   TEXT,               -- userids, comma between them
    ext_attr        TEXT CHECK (ext_attr IS NULL OR json_valid(ext_attr)),  -- [{"type":0,"name":..,"text":{"value":..}}, ..]

    openid                  TEXT,
    openid_state            TEXT NOT NULL CHECK (openid_state IN ('pending', 'converted', 'failed')),
    openid_attempts         INTEGER NOT NULL DEFAULT 0,  -- refusals since the last event that named the member
    openid_next_attempt_at  INTEGER,
    openid_errcode          INTEGER,    -- WeCom's last answer, if it was a refusal
    openid_error            TEXT,
    openid_updated_at       INTEGER,    -- when WeCom gave the openid last, or its state changed
    openid_revision         INTEGER NOT NULL,  -- differs whenever an answer to an earlier question no longer counts

    details_state       TEXT NOT NULL CHECK (details_state IN ('known', 'due', 'denied')),
    details_fetched_at  INTEGER,

    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    event_time      INTEGER NOT NULL,   -- WeCom's time of the newest news of this member
    deleted_at      INTEGER,            -- WeCom's time of the deletion; null: present

    CHECK ((openid_state = 'converted') = (openid IS NOT NULL)),
    -- Nobody is forgotten: without an openid there is a time to try again, or a reason not to.
    CHECK (openid_state <> 'pending' OR openid_next_attempt_at IS NOT NULL)
) STRICT;
CREATE INDEX members_by_state ON members (openid_state, openid_next_attempt_at) WHERE deleted_at IS NULL;
CREATE INDEX members_by_openid ON members (openid) WHERE openid IS NOT NULL;

CREATE TABLE member_departments (
    userid          TEXT NOT NULL COLLATE NOCASE REFERENCES members (userid) ON UPDATE CASCADE ON DELETE CASCADE,
    department_id   INTEGER NOT NULL,   -- may not be in departments yet: WeCom promises no order
    is_leader       INTEGER NOT NULL DEFAULT 0 CHECK (is_leader IN (0, 1)),
    position        INTEGER NOT NULL,   -- place in the member's own list, from 0
    PRIMARY KEY (userid, department_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX member_departments_by_department ON member_departments (department_id);

CREATE TABLE departments (
    id          INTEGER NOT NULL PRIMARY KEY,
    name        TEXT,
    parent_id   INTEGER,
    "order"     INTEGER,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    event_time  INTEGER NOT NULL,
    deleted_at  INTEGER
) STRICT;
CREATE INDEX departments_by_parent ON departments (parent_id);

CREATE TABLE tags (
    id          INTEGER NOT NULL PRIMARY KEY,
    name        TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    event_time  INTEGER NOT NULL,
    deleted_at  INTEGER
) STRICT;
-- Who and what is in a tag now. May name members and departments that are not known yet.
CREATE TABLE tag_members (
    tag_id  INTEGER NOT NULL REFERENCES tags (id) ON DELETE CASCADE,
    userid  TEXT NOT NULL COLLATE NOCASE,
    PRIMARY KEY (tag_id, userid)
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_members_by_member ON tag_members (userid);
CREATE TABLE tag_departments (
    tag_id          INTEGER NOT NULL REFERENCES tags (id) ON DELETE CASCADE,
    department_id   INTEGER NOT NULL,
    PRIMARY KEY (tag_id, department_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_departments_by_department ON tag_departments (department_id);

-- Members whose userid changed. event_time is WeCom's.
CREATE TABLE renames (
    old_userid  TEXT NOT NULL COLLATE NOCASE,
    new_userid  TEXT NOT NULL COLLATE NOCASE,
    event_time  INTEGER NOT NULL,
    PRIMARY KEY (old_userid, new_userid, event_time)
) STRICT, WITHOUT ROWID;
CREATE INDEX renames_by_new ON renames (new_userid);

-- Every callback that was acknowledged.
CREATE TABLE events (
    seq         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    received_at INTEGER NOT NULL,
    create_time INTEGER,                -- WeCom's; null if the event had none
    event       TEXT NOT NULL,          -- change_contact, subscribe, ..
    change_type TEXT NOT NULL,          -- create_user, ..; '' if there is none
    subject     TEXT NOT NULL COLLATE NOCASE,  -- the userid or id that it is about, as it was named
    outcome     TEXT NOT NULL CHECK (outcome IN ('applied', 'duplicate', 'stale', 'ignored', 'invalid')),
    -- how often the same content came again: up to 3, each with a row of its own, then brought up at each doubling
    repeats     INTEGER NOT NULL DEFAULT 0,
    digest      INTEGER,                -- of the content, to tell repetition; null for duplicates
    payload     TEXT NOT NULL           -- the decrypted XML; '' for duplicates and for what members send to an app
) STRICT;
CREATE INDEX events_by_digest ON events (digest) WHERE digest IS NOT NULL;
CREATE INDEX events_by_subject ON events (subject);
CREATE INDEX events_by_time ON events (received_at);

-- The change feed: what a consumer of the directory would care about, in the order of commits.
CREATE TABLE changes (
    seq     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    entity  TEXT NOT NULL CHECK (entity IN ('member', 'department', 'tag')),
    key     TEXT NOT NULL COLLATE NOCASE,
    action  TEXT NOT NULL CHECK (action IN ('created', 'updated', 'renamed', 'deleted', 'openid')),
    fields  TEXT NOT NULL CHECK (json_valid(fields))    -- {"field": [old, new], ..}
) STRICT;
CREATE INDEX changes_by_key ON changes (key);
CREATE INDEX changes_by_time ON changes (at);

-- The latest calls of WeCom's API, and how they ended. errcode null: no answer that could be read.
CREATE TABLE api_calls (
    id      INTEGER NOT NULL PRIMARY KEY,
    at      INTEGER NOT NULL,
    api     TEXT NOT NULL,
    userid  TEXT COLLATE NOCASE,
    errcode INTEGER,
    errmsg  TEXT,
    millis  INTEGER NOT NULL
) STRICT;
CREATE INDEX api_calls_by_userid ON api_calls (userid) WHERE userid IS NOT NULL;

-- Requests to the callback port that were refused, by cause and path; the 200 latest. The texts are escaped.
CREATE TABLE refusals (
    cause       TEXT NOT NULL,          -- signature, not_found, ..; status shows what to do about each
    path        TEXT NOT NULL,          -- without the query; '-': unknown, '(other)': one of many unknown paths
    first_at    INTEGER NOT NULL,
    last_at     INTEGER NOT NULL,
    count       INTEGER NOT NULL,
    last_client TEXT NOT NULL,          -- the forwarded address, if there is one, and the peer
    PRIMARY KEY (cause, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX refusals_by_time ON refusals (last_at);

-- The memory of the merge, not meant for others: what WeCom said of each userid and department, from
-- which the rows above are made. stamp is WeCom's second times four, plus the order within the second.
CREATE TABLE member_facts (
    userid  TEXT NOT NULL COLLATE NOCASE,
    stamp   INTEGER NOT NULL,
    arrival INTEGER NOT NULL,
    word    TEXT NOT NULL,
    PRIMARY KEY (userid, stamp, arrival)
) STRICT, WITHOUT ROWID;
CREATE TABLE department_facts (
    id      INTEGER NOT NULL,
    stamp   INTEGER NOT NULL,
    arrival INTEGER NOT NULL,
    saying  TEXT NOT NULL,
    PRIMARY KEY (id, stamp, arrival)
) STRICT, WITHOUT ROWID;

-- Openids of members whose rows are part of others for now: first name, and end of that name's former holder.
CREATE TABLE openids_aside (
    name    TEXT NOT NULL COLLATE NOCASE,
    floor   INTEGER NOT NULL,
    openid  TEXT NOT NULL,
    PRIMARY KEY (name, floor)
) STRICT, WITHOUT ROWID;

-- What the daemon says of itself: pauses, comparison due, .. (JSON).
CREATE TABLE daemon_state (
    name    TEXT NOT NULL PRIMARY KEY,
    at      INTEGER NOT NULL,
    value   TEXT NOT NULL CHECK (json_valid(value))
) STRICT, WITHOUT ROWID;
