-- Version 2: comparing the directory with WeCom.

-- Each comparison. One that is under way, or was when the daemon ended, has no finished_at.
CREATE TABLE reconciles (
    seq          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    started_at   INTEGER NOT NULL,
    finished_at  INTEGER,
    reason       TEXT NOT NULL,      -- why it was made
    -- ok: all was compared; partial: WeCom did not show everything, note says what;
    -- blocked: more deletions than allowed, the rest is applied; failed: WeCom could not be asked
    outcome      TEXT NOT NULL CHECK (outcome IN ('running', 'ok', 'partial', 'blocked', 'failed', 'stopped')),
    members_seen INTEGER NOT NULL DEFAULT 0,
    created      INTEGER NOT NULL DEFAULT 0,    -- members, departments and tags together
    updated      INTEGER NOT NULL DEFAULT 0,
    deleted      INTEGER NOT NULL DEFAULT 0,
    note         TEXT NOT NULL DEFAULT ''
) STRICT;

-- Differs whenever an answer to an earlier question for the details no longer settles them.
ALTER TABLE members ADD COLUMN details_revision INTEGER NOT NULL DEFAULT 0;
CREATE INDEX members_by_details_due ON members (event_time) WHERE details_state = 'due' AND deleted_at IS NULL;
CREATE INDEX members_by_openid_age ON members (openid_updated_at)
    WHERE openid_state = 'converted' AND deleted_at IS NULL;
