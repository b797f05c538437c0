-- The schema of a wecom-dirsync database, version 1. Programs and people may read every table; only the daemon writes.
-- Times are unix seconds: event_time, create_time, second and deleted_at on WeCom's clock, all others on this machine's.
-- Types are enforced by CHECK, not by STRICT: shells and libraries from SQLite 3.26 on can read the file.

-- Members of the company, present and departed. userid compares ignoring case, as WeCom does.
CREATE TABLE members (
    -- in WeCom's latest spelling
    userid                 TEXT NOT NULL PRIMARY KEY COLLATE NOCASE CHECK (length(userid) BETWEEN 1 AND 64) CHECK (typeof(userid) = 'text'),
    -- this and the following fields: null if unknown, '' if WeCom sent an empty value
    name                   TEXT CHECK (typeof(name) IN ('text', 'null')),
    alias                  TEXT CHECK (typeof(alias) IN ('text', 'null')),
    mobile                 TEXT CHECK (typeof(mobile) IN ('text', 'null')),
    telephone              TEXT CHECK (typeof(telephone) IN ('text', 'null')),
    email                  TEXT CHECK (typeof(email) IN ('text', 'null')),
    biz_mail               TEXT CHECK (typeof(biz_mail) IN ('text', 'null')),
    -- the job title
    position               TEXT CHECK (typeof(position) IN ('text', 'null')),
    -- 0 unknown, 1 male, 2 female
    gender                 INTEGER CHECK (typeof(gender) IN ('integer', 'null')),
    -- 1 activated, 2 disabled, 4 not activated, 5 left
    status                 INTEGER CHECK (typeof(status) IN ('integer', 'null')),
    -- a URL
    avatar                 TEXT CHECK (typeof(avatar) IN ('text', 'null')),
    address                TEXT CHECK (typeof(address) IN ('text', 'null')),
    main_department        INTEGER CHECK (typeof(main_department) IN ('integer', 'null')),
    -- userids, separated by commas
    direct_leader          TEXT CHECK (typeof(direct_leader) IN ('text', 'null')),
    -- [{"type":0,"name":..,"text":{"value":..}}, ..]
    ext_attr               TEXT CHECK (ext_attr IS NULL OR json_valid(ext_attr)) CHECK (typeof(ext_attr) IN ('text', 'null')),
    openid                 TEXT CHECK (typeof(openid) IN ('text', 'null')),
    -- pending: a next attempt is set; failed: WeCom refused for good
    openid_state           TEXT NOT NULL CHECK (openid_state IN ('pending', 'converted', 'failed')) CHECK (typeof(openid_state) = 'text'),
    -- refusals since the last event that named the member
    openid_attempts        INTEGER NOT NULL DEFAULT 0 CHECK (typeof(openid_attempts) = 'integer'),
    -- time of the next attempt; null if there is none
    openid_next_attempt_at INTEGER CHECK (typeof(openid_next_attempt_at) IN ('integer', 'null')),
    -- WeCom's last answer, if it was a refusal
    openid_errcode         INTEGER CHECK (typeof(openid_errcode) IN ('integer', 'null')),
    openid_error           TEXT CHECK (typeof(openid_error) IN ('text', 'null')),
    -- time of the last answer with an openid or a final refusal
    openid_updated_at      INTEGER CHECK (typeof(openid_updated_at) IN ('integer', 'null')),
    -- changes whenever answers to earlier calls become obsolete
    openid_revision        INTEGER NOT NULL CHECK (typeof(openid_revision) = 'integer'),
    -- due: the fields must be fetched with user/get; denied: WeCom does not show them
    details_state          TEXT NOT NULL CHECK (details_state IN ('known', 'due', 'denied')) CHECK (typeof(details_state) = 'text'),
    details_fetched_at     INTEGER CHECK (typeof(details_fetched_at) IN ('integer', 'null')),
    -- changes whenever answers to earlier calls of user/get become obsolete
    details_revision       INTEGER NOT NULL DEFAULT 0 CHECK (typeof(details_revision) = 'integer'),
    created_at             INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    updated_at             INTEGER NOT NULL CHECK (typeof(updated_at) = 'integer'),
    -- of the newest fact about this member
    event_time             INTEGER NOT NULL CHECK (typeof(event_time) = 'integer'),
    -- null: present
    deleted_at             INTEGER CHECK (typeof(deleted_at) IN ('integer', 'null')),
    CHECK ((openid_state = 'converted') = (openid IS NOT NULL)),
    -- Every member without an openid has a next attempt or a final refusal.
    CHECK (openid_state <> 'pending' OR openid_next_attempt_at IS NOT NULL)
);
CREATE INDEX members_by_state ON members (openid_state, openid_next_attempt_at) WHERE deleted_at IS NULL;
CREATE INDEX members_by_openid ON members (openid) WHERE openid IS NOT NULL;
CREATE INDEX members_by_openid_age ON members (openid_updated_at)
    WHERE openid_state = 'converted' AND deleted_at IS NULL;
CREATE INDEX members_by_details_due ON members (event_time) WHERE details_state = 'due' AND deleted_at IS NULL;

-- The departments of present members.
CREATE TABLE member_departments (
    userid                 TEXT NOT NULL COLLATE NOCASE REFERENCES members (userid) ON UPDATE CASCADE ON DELETE CASCADE CHECK (typeof(userid) = 'text'),
    -- may be missing in departments for a while, because events arrive in any order
    department_id          INTEGER NOT NULL CHECK (typeof(department_id) = 'integer'),
    is_leader              INTEGER NOT NULL DEFAULT 0 CHECK (is_leader IN (0, 1)) CHECK (typeof(is_leader) = 'integer'),
    -- place in the member's own list, from 0
    position               INTEGER NOT NULL CHECK (typeof(position) = 'integer'),
    PRIMARY KEY (userid, department_id)
) WITHOUT ROWID;
CREATE INDEX member_departments_by_department ON member_departments (department_id);

-- Departments, present and deleted. The company itself is 1.
CREATE TABLE departments (
    id                     INTEGER NOT NULL PRIMARY KEY,
    name                   TEXT CHECK (typeof(name) IN ('text', 'null')),
    parent_id              INTEGER CHECK (typeof(parent_id) IN ('integer', 'null')),
    -- among its siblings, larger first
    "order"                INTEGER CHECK (typeof("order") IN ('integer', 'null')),
    created_at             INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    updated_at             INTEGER NOT NULL CHECK (typeof(updated_at) = 'integer'),
    event_time             INTEGER NOT NULL CHECK (typeof(event_time) = 'integer'),
    -- null: present
    deleted_at             INTEGER CHECK (typeof(deleted_at) IN ('integer', 'null'))
);
CREATE INDEX departments_by_parent ON departments (parent_id);

-- Tags, present and deleted.
CREATE TABLE tags (
    id                     INTEGER NOT NULL PRIMARY KEY,
    -- null until a comparison, because events do not contain it
    name                   TEXT CHECK (typeof(name) IN ('text', 'null')),
    created_at             INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    updated_at             INTEGER NOT NULL CHECK (typeof(updated_at) = 'integer'),
    event_time             INTEGER NOT NULL CHECK (typeof(event_time) = 'integer'),
    -- null: present
    deleted_at             INTEGER CHECK (typeof(deleted_at) IN ('integer', 'null')),
    -- WeCom's second in which the tag's present existence begins: older events about its content are void
    starts_at              INTEGER NOT NULL DEFAULT 0 CHECK (typeof(starts_at) = 'integer')
);
-- Members in a tag now. A member may be missing in members for a while.
CREATE TABLE tag_members (
    tag_id                 INTEGER NOT NULL REFERENCES tags (id) ON DELETE CASCADE CHECK (typeof(tag_id) = 'integer'),
    userid                 TEXT NOT NULL COLLATE NOCASE CHECK (typeof(userid) = 'text'),
    PRIMARY KEY (tag_id, userid)
) WITHOUT ROWID;
CREATE INDEX tag_members_by_member ON tag_members (userid);

-- Departments in a tag now.
CREATE TABLE tag_departments (
    tag_id                 INTEGER NOT NULL REFERENCES tags (id) ON DELETE CASCADE CHECK (typeof(tag_id) = 'integer'),
    department_id          INTEGER NOT NULL CHECK (typeof(department_id) = 'integer'),
    PRIMARY KEY (tag_id, department_id)
) WITHOUT ROWID;
CREATE INDEX tag_departments_by_department ON tag_departments (department_id);

-- Members whose userid changed.
CREATE TABLE renames (
    old_userid             TEXT NOT NULL COLLATE NOCASE CHECK (typeof(old_userid) = 'text'),
    new_userid             TEXT NOT NULL COLLATE NOCASE CHECK (typeof(new_userid) = 'text'),
    -- of the latest such rename
    event_time             INTEGER NOT NULL CHECK (typeof(event_time) = 'integer'),
    -- 1 while the merge folds the facts of both names together
    is_tied                INTEGER NOT NULL DEFAULT 1 CHECK (is_tied IN (0, 1)) CHECK (typeof(is_tied) = 'integer'),
    PRIMARY KEY (old_userid, new_userid)
) WITHOUT ROWID;
CREATE INDEX renames_by_new ON renames (new_userid) WHERE is_tied = 1;

-- Callbacks that were acknowledged.
CREATE TABLE events (
    seq                    INTEGER NOT NULL PRIMARY KEY,
    received_at            INTEGER NOT NULL CHECK (typeof(received_at) = 'integer'),
    -- null if the event has none
    create_time            INTEGER CHECK (typeof(create_time) IN ('integer', 'null')),
    -- change_contact, subscribe, ..
    event                  TEXT NOT NULL CHECK (typeof(event) = 'text'),
    -- create_user, ..; '' if there is none
    change_type            TEXT NOT NULL CHECK (typeof(change_type) = 'text'),
    -- the userid or number that the event names
    subject                TEXT NOT NULL COLLATE NOCASE CHECK (typeof(subject) = 'text'),
    outcome                TEXT NOT NULL CHECK (outcome IN ('applied', 'duplicate', 'stale', 'ignored', 'invalid')) CHECK (typeof(outcome) = 'text'),
    -- number of repetitions: the first 3 have rows of their own, later ones are counted at each doubling
    repeats                INTEGER NOT NULL DEFAULT 0 CHECK (typeof(repeats) = 'integer'),
    -- a digest of content that is not stored; null for duplicates
    digest                 INTEGER CHECK (typeof(digest) IN ('integer', 'null')),
    -- the decrypted XML; '' for duplicates and for what members send to an app
    payload                TEXT NOT NULL CHECK (typeof(payload) = 'text')
);
-- Finds repetitions, and a member's events.
CREATE INDEX events_by_subject ON events (subject, create_time);

-- The change feed, in the order of commits.
CREATE TABLE changes (
    seq                    INTEGER NOT NULL PRIMARY KEY,
    at                     INTEGER NOT NULL CHECK (typeof(at) = 'integer'),
    entity                 TEXT NOT NULL CHECK (entity IN ('member', 'department', 'tag')) CHECK (typeof(entity) = 'text'),
    -- the userid or number
    key                    TEXT NOT NULL COLLATE NOCASE CHECK (typeof(key) = 'text'),
    action                 TEXT NOT NULL CHECK (action IN ('created', 'updated', 'renamed', 'deleted', 'openid')) CHECK (typeof(action) = 'text'),
    -- {"field": [old, new], ..}
    fields                 TEXT NOT NULL CHECK (json_valid(fields)) CHECK (typeof(fields) = 'text')
);
CREATE INDEX changes_by_key ON changes (key);

-- The latest calls of WeCom's API.
CREATE TABLE api_calls (
    id                     INTEGER NOT NULL PRIMARY KEY,
    at                     INTEGER NOT NULL CHECK (typeof(at) = 'integer'),
    api                    TEXT NOT NULL CHECK (typeof(api) = 'text'),
    userid                 TEXT COLLATE NOCASE CHECK (typeof(userid) IN ('text', 'null')),
    -- null: no readable answer
    errcode                INTEGER CHECK (typeof(errcode) IN ('integer', 'null')),
    errmsg                 TEXT CHECK (typeof(errmsg) IN ('text', 'null')),
    -- duration of the call
    millis                 INTEGER NOT NULL CHECK (typeof(millis) = 'integer')
);
CREATE INDEX api_calls_by_userid ON api_calls (userid) WHERE userid IS NOT NULL;

-- Requests to the callback port that were refused, by cause and path; the 200 latest. The texts are escaped.
CREATE TABLE refusals (
    -- signature, not_found, ..; status shows the remedy of each
    cause                  TEXT NOT NULL CHECK (typeof(cause) = 'text'),
    -- without the query; '-': unknown, '(other)': one of many unknown paths
    path                   TEXT NOT NULL CHECK (typeof(path) = 'text'),
    first_at               INTEGER NOT NULL CHECK (typeof(first_at) = 'integer'),
    last_at                INTEGER NOT NULL CHECK (typeof(last_at) = 'integer'),
    count                  INTEGER NOT NULL CHECK (typeof(count) = 'integer'),
    -- the forwarded address, if there is one, and the peer
    last_client            TEXT NOT NULL CHECK (typeof(last_client) = 'text'),
    PRIMARY KEY (cause, path)
) WITHOUT ROWID;
CREATE INDEX refusals_by_time ON refusals (last_at);

-- Comparisons of the directory with WeCom.
CREATE TABLE reconciles (
    seq                    INTEGER NOT NULL PRIMARY KEY,
    started_at             INTEGER NOT NULL CHECK (typeof(started_at) = 'integer'),
    -- null while it runs
    finished_at            INTEGER CHECK (typeof(finished_at) IN ('integer', 'null')),
    -- what triggered it
    reason                 TEXT NOT NULL CHECK (typeof(reason) = 'text'),
    -- ok: everything was compared; partial: WeCom did not show everything, see note; blocked: more deletions than allowed,
    -- all other differences are merged; failed: WeCom could not be called; stopped: the program ended during it
    outcome                TEXT NOT NULL CHECK (outcome IN ('running', 'ok', 'partial', 'blocked', 'failed', 'stopped')) CHECK (typeof(outcome) = 'text'),
    members_seen           INTEGER NOT NULL DEFAULT 0 CHECK (typeof(members_seen) = 'integer'),
    -- members, departments and tags together, as the next two
    created                INTEGER NOT NULL DEFAULT 0 CHECK (typeof(created) = 'integer'),
    updated                INTEGER NOT NULL DEFAULT 0 CHECK (typeof(updated) = 'integer'),
    deleted                INTEGER NOT NULL DEFAULT 0 CHECK (typeof(deleted) = 'integer'),
    note                   TEXT NOT NULL DEFAULT '' CHECK (typeof(note) = 'text')
);

-- Internal tables of the merge: facts from WeCom, from which the rows above are computed.

-- Facts about members.
CREATE TABLE member_facts (
    userid                 TEXT NOT NULL COLLATE NOCASE CHECK (typeof(userid) = 'text'),
    -- WeCom's second
    second                 INTEGER NOT NULL CHECK (typeof(second) = 'integer'),
    -- order within the second: 0 absent, 1 listed, 2 updated, 3 tagged, 4 renamed, 5 deleted, 6 created, 7 converted
    rank                   INTEGER NOT NULL CHECK (rank BETWEEN 0 AND 7) CHECK (typeof(rank) = 'integer'),
    -- distinguishes facts of one second and rank
    n                      INTEGER NOT NULL CHECK (typeof(n) = 'integer'),
    -- number of the event with this fact, or of the next event; negative: part of a snapshot
    arrival                INTEGER NOT NULL CHECK (typeof(arrival) = 'integer'),
    -- JSON
    fact                   TEXT NOT NULL CHECK (typeof(fact) = 'text'),
    PRIMARY KEY (userid, second, rank, n)
) WITHOUT ROWID;
-- Facts about departments.
CREATE TABLE department_facts (
    id                     INTEGER NOT NULL CHECK (typeof(id) = 'integer'),
    -- WeCom's second
    second                 INTEGER NOT NULL CHECK (typeof(second) = 'integer'),
    -- order within the second: 0 absent, 1 listed, 2 updated, 3 tagged, 4 renamed, 5 deleted, 6 created, 7 converted
    rank                   INTEGER NOT NULL CHECK (rank BETWEEN 0 AND 7) CHECK (typeof(rank) = 'integer'),
    -- distinguishes facts of one second and rank
    n                      INTEGER NOT NULL CHECK (typeof(n) = 'integer'),
    -- number of the event with this fact, or of the next event; negative: part of a snapshot
    arrival                INTEGER NOT NULL CHECK (typeof(arrival) = 'integer'),
    -- JSON
    fact                   TEXT NOT NULL CHECK (typeof(fact) = 'text'),
    PRIMARY KEY (id, second, rank, n)
) WITHOUT ROWID;
-- Facts about tags.
CREATE TABLE tag_facts (
    id                     INTEGER NOT NULL CHECK (typeof(id) = 'integer'),
    -- WeCom's second
    second                 INTEGER NOT NULL CHECK (typeof(second) = 'integer'),
    -- order within the second: 0 absent, 1 listed, 2 updated, 3 tagged, 4 renamed, 5 deleted, 6 created, 7 converted
    rank                   INTEGER NOT NULL CHECK (rank BETWEEN 0 AND 7) CHECK (typeof(rank) = 'integer'),
    -- distinguishes facts of one second and rank
    n                      INTEGER NOT NULL CHECK (typeof(n) = 'integer'),
    -- number of the event with this fact, or of the next event; negative: part of a snapshot
    arrival                INTEGER NOT NULL CHECK (typeof(arrival) = 'integer'),
    -- JSON
    fact                   TEXT NOT NULL CHECK (typeof(fact) = 'text'),
    PRIMARY KEY (id, second, rank, n)
) WITHOUT ROWID;
-- The last complete listing of each kind: entities that it lacks are absent.
CREATE TABLE listings (
    kind                   TEXT NOT NULL PRIMARY KEY CHECK (kind IN ('member', 'department', 'tag')) CHECK (typeof(kind) = 'text'),
    -- WeCom's second
    second                 INTEGER NOT NULL CHECK (typeof(second) = 'integer'),
    -- facts with this event number or a higher one are later
    arrival                INTEGER NOT NULL CHECK (typeof(arrival) = 'integer')
) WITHOUT ROWID;
-- The last complete listing of each tag's content: older events about it are void.
CREATE TABLE tag_listings (
    tag_id                 INTEGER NOT NULL PRIMARY KEY,
    -- WeCom's second
    second                 INTEGER NOT NULL CHECK (typeof(second) = 'integer')
);
-- Parts of acknowledged update_tag events with more than 256 members and departments, which the daemon merges one by one.
CREATE TABLE deferred_facts (
    id                     INTEGER NOT NULL PRIMARY KEY,
    tag_id                 INTEGER NOT NULL CHECK (typeof(tag_id) = 'integer'),
    -- WeCom's second
    second                 INTEGER NOT NULL CHECK (typeof(second) = 'integer'),
    -- {"added_members": [userid, ..]}, or removed_members, added_departments, removed_departments
    content                TEXT NOT NULL CHECK (json_valid(content)) CHECK (typeof(content) = 'text')
);
-- One row: the last numbers of events and changes. A number is never given again, also after its row was deleted.
CREATE TABLE ledger (
    -- always 1
    company                INTEGER NOT NULL PRIMARY KEY CHECK (company = 1),
    last_event             INTEGER NOT NULL CHECK (typeof(last_event) = 'integer'),
    last_change            INTEGER NOT NULL CHECK (typeof(last_change) = 'integer')
);
INSERT INTO ledger (company, last_event, last_change) VALUES (1, 0, 0);

-- State of the daemon: pauses, a requested comparison, ..
CREATE TABLE daemon_state (
    name                   TEXT NOT NULL PRIMARY KEY CHECK (typeof(name) = 'text'),
    at                     INTEGER NOT NULL CHECK (typeof(at) = 'integer'),
    -- JSON
    value                  TEXT NOT NULL CHECK (json_valid(value)) CHECK (typeof(value) = 'text')
) WITHOUT ROWID;
