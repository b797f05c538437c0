-- Views for people at the sqlite3 prompt. Times are local.

-- Full path of each present department. An unknown parent begins a path. Below depth 64 the path is omitted:
-- '(too deep)/name'. A department that is its own parent, and those below it, stand below '(cycle)'; those on or below
-- a longer cycle are '(cycle)/parent/name', and have no depth.
CREATE VIEW department_tree AS
WITH RECURSIVE tree (id, name, parent_id, "order", depth, path) AS (
    SELECT id, coalesce(name, '#' || id), parent_id, "order", 0,
           CASE WHEN parent_id = id THEN '(cycle)/' ELSE '' END || coalesce(name, '#' || id)
    FROM departments AS d
    WHERE deleted_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM departments AS p
                      WHERE p.id = d.parent_id AND p.id <> d.id AND p.deleted_at IS NULL)
    UNION ALL
    SELECT d.id, coalesce(d.name, '#' || d.id), d.parent_id, d."order", tree.depth + 1,
           CASE WHEN tree.depth < 64 THEN tree.path ELSE '(too deep)' END || '/' || coalesce(d.name, '#' || d.id)
    FROM departments AS d JOIN tree ON d.parent_id = tree.id AND d.id <> tree.id
    WHERE d.deleted_at IS NULL
)
SELECT id, path, name, parent_id, "order", depth FROM tree
UNION ALL
-- Every department has one parent, so departments that no root reaches are on a cycle or below one.
SELECT d.id, '(cycle)/' || coalesce(p.name, '#' || d.parent_id) || '/' || coalesce(d.name, '#' || d.id),
       coalesce(d.name, '#' || d.id), d.parent_id, d."order", NULL
FROM departments AS d LEFT JOIN departments AS p ON p.id = d.parent_id
WHERE d.deleted_at IS NULL AND d.id NOT IN (SELECT id FROM tree);

-- Present members.
CREATE VIEW active_members AS
SELECT m.userid, m.name,
       (SELECT group_concat(label, ', ')
        FROM (SELECT coalesce(d.name, '#' || md.department_id) || CASE md.is_leader WHEN 1 THEN ' (leads)' ELSE '' END AS label
              FROM member_departments AS md
              LEFT JOIN departments AS d ON d.id = md.department_id AND d.deleted_at IS NULL
              WHERE md.userid = m.userid ORDER BY md.position)) AS departments,
       m.position, m.mobile, m.email,
       CASE m.status WHEN 1 THEN 'activated' WHEN 2 THEN 'disabled' WHEN 4 THEN 'not activated' WHEN 5 THEN 'left'
            ELSE CAST(m.status AS TEXT) END AS status,
       m.openid,
       CASE m.openid_state WHEN 'converted' THEN 'has an openid' WHEN 'failed' THEN 'WeCom refuses for good'
            ELSE 'waits for an openid' END AS openid_state,
       datetime(m.event_time, 'unixepoch', 'localtime') AS last_news,
       datetime(m.created_at, 'unixepoch', 'localtime') AS known_since
FROM members AS m
WHERE m.deleted_at IS NULL;

-- Members without an openid: the reason, the attempts, and the next attempt.
CREATE VIEW pending_members AS
SELECT userid, name,
       CASE WHEN openid_errcode IS NULL AND openid_error IS NULL THEN 'not tried yet'
            WHEN openid_errcode = 43004 THEN 'has not signed in to WeCom or followed it in WeChat yet (43004)'
            WHEN openid_errcode IS NULL THEN openid_error
            ELSE 'errcode ' || openid_errcode || coalesce(': ' || openid_error, '') END AS why,
       openid_attempts AS tried,
       CASE WHEN openid_next_attempt_at <= CAST(strftime('%s', 'now') AS INTEGER) THEN 'now'
            ELSE datetime(openid_next_attempt_at, 'unixepoch', 'localtime') END AS next_try,
       datetime(created_at, 'unixepoch', 'localtime') AS known_since
FROM members
WHERE openid_state = 'pending' AND deleted_at IS NULL
ORDER BY openid_next_attempt_at;

-- Members that WeCom refuses to convert for good. `wecom-dirsync retry` makes them pending again.
CREATE VIEW failed_members AS
SELECT userid, name,
       CASE openid_errcode WHEN 60111 THEN 'WeCom does not know this userid (60111)'
            WHEN 60121 THEN 'WeCom does not know this userid (60121)'
            ELSE 'errcode ' || coalesce(openid_errcode, '?') || coalesce(': ' || openid_error, '') END AS why,
       openid_attempts AS tried,
       datetime(openid_updated_at, 'unixepoch', 'localtime') AS refused,
       datetime(created_at, 'unixepoch', 'localtime') AS known_since
FROM members
WHERE openid_state = 'failed' AND deleted_at IS NULL
ORDER BY userid;

-- The latest callbacks, newest first.
CREATE VIEW recent_events AS
SELECT seq, datetime(received_at, 'unixepoch', 'localtime') AS received,
       datetime(create_time, 'unixepoch', 'localtime') AS happened,
       CASE change_type WHEN '' THEN event ELSE change_type END AS what, subject, outcome
FROM events ORDER BY seq DESC LIMIT 100;

-- Openids that several present members have: each openid belongs to one person, so one of the userids is wrong, or a person
-- has two. The openids of all are requested again.
CREATE VIEW openid_clashes AS
SELECT m.openid, m.userid, m.name, datetime(m.openid_updated_at, 'unixepoch', 'localtime') AS confirmed
FROM members AS m
WHERE m.deleted_at IS NULL AND m.openid IS NOT NULL
  AND EXISTS (SELECT 1 FROM members AS o
              WHERE o.openid = m.openid AND o.userid <> m.userid AND o.deleted_at IS NULL)
ORDER BY m.openid, m.userid;
