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

-- Openids that two present members had at some time since the daemon last looked: written by the triggers, so that
-- no way of getting an openid is forgotten; see the view openid_clashes.
CREATE TABLE clashing_openids (
    openid   TEXT NOT NULL PRIMARY KEY,
    found_at INTEGER NOT NULL,
    told     INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1))
) WITHOUT ROWID;
-- Converted members that are asked once more, because of a clash.
CREATE TABLE openid_rechecks (userid TEXT NOT NULL PRIMARY KEY COLLATE NOCASE) WITHOUT ROWID;
CREATE TRIGGER members_openid_inserted AFTER INSERT ON members
WHEN NEW.openid IS NOT NULL AND NEW.deleted_at IS NULL BEGIN
    INSERT INTO clashing_openids (openid, found_at)
    SELECT NEW.openid, CAST(strftime('%s', 'now') AS INTEGER)
    WHERE EXISTS (SELECT 1 FROM members WHERE openid = NEW.openid AND userid <> NEW.userid AND deleted_at IS NULL)
      AND NOT EXISTS (SELECT 1 FROM clashing_openids WHERE openid = NEW.openid);
END;
CREATE TRIGGER members_openid_updated AFTER UPDATE OF openid, deleted_at ON members
WHEN NEW.openid IS NOT NULL AND NEW.deleted_at IS NULL BEGIN
    INSERT INTO clashing_openids (openid, found_at)
    SELECT NEW.openid, CAST(strftime('%s', 'now') AS INTEGER)
    WHERE EXISTS (SELECT 1 FROM members WHERE openid = NEW.openid AND userid <> NEW.userid AND deleted_at IS NULL)
      AND NOT EXISTS (SELECT 1 FROM clashing_openids WHERE openid = NEW.openid);
END;
