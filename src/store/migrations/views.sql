-- Views for people at the sqlite3 prompt. Times are local.

-- Full path of each present department. A parent that is not known (yet) ends the path. The path of a department
-- in a cycle, or below one, begins with (cycle)/.. and its depth is null; below 64 parents it begins with (too deep)/..
CREATE VIEW department_tree AS
WITH RECURSIVE tree (id, name, parent_id, "order", depth, path) AS (
    SELECT id, coalesce(name, '#' || id), parent_id, "order", 0, coalesce(name, '#' || id)
    FROM departments AS d
    WHERE deleted_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM departments AS p WHERE p.id = d.parent_id AND p.deleted_at IS NULL)
    UNION ALL
    -- Ends by itself: each department has one parent, so that no cycle is reached from a root.
    SELECT d.id, coalesce(d.name, '#' || d.id), d.parent_id, d."order", tree.depth + 1,
           CASE WHEN tree.depth < 64 THEN tree.path ELSE '(too deep)/..' END || '/' || coalesce(d.name, '#' || d.id)
    FROM tree JOIN departments AS d ON d.parent_id = tree.id
    WHERE d.deleted_at IS NULL
)
SELECT id, path, name, parent_id, "order", depth FROM tree
UNION ALL
SELECT id, '(cycle)/../' || coalesce(name, '#' || id), coalesce(name, '#' || id), parent_id, "order", NULL
FROM departments
WHERE deleted_at IS NULL AND id NOT IN (SELECT id FROM tree);

-- Everybody who is in the company now.
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

-- Who has no openid yet, why, how often it was tried, and when it is tried next.
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

-- The latest callbacks, newest first.
CREATE VIEW recent_events AS
SELECT seq, datetime(received_at, 'unixepoch', 'localtime') AS received,
       datetime(create_time, 'unixepoch', 'localtime') AS happened,
       CASE change_type WHEN '' THEN event ELSE change_type END AS what, subject, outcome
FROM events ORDER BY seq DESC LIMIT 100;

-- One openid on two or more present members.
CREATE VIEW openid_clashes AS
SELECT c.openid, count(*) AS members, group_concat(m.userid, ', ') AS userids,
       datetime(c.found_at, 'unixepoch', 'localtime') AS found
FROM clashing_openids AS c JOIN members AS m ON m.openid = c.openid AND m.openid IS NOT NULL AND m.deleted_at IS NULL
GROUP BY c.openid HAVING count(*) > 1;
