package main

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"time"
)

const (
	// Events that may wait for the writer.
	maxWaiting = 4096
	// Events in one transaction.
	maxGroup = 512
)

const schema = `
CREATE TABLE IF NOT EXISTS members (
    userid            TEXT NOT NULL PRIMARY KEY COLLATE NOCASE,
    name              TEXT,
    alias             TEXT,
    mobile            TEXT,
    telephone         TEXT,
    email             TEXT,
    biz_mail          TEXT,
    position          TEXT,
    gender            INTEGER,
    status            INTEGER,
    avatar            TEXT,
    address           TEXT,
    main_department   INTEGER,
    department        TEXT,
    is_leader_in_dept TEXT,
    direct_leader     TEXT,
    updated_at        INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    seq         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    received_at INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    event       TEXT NOT NULL,
    change_type TEXT NOT NULL,
    subject     TEXT NOT NULL,
    payload     TEXT NOT NULL
);`

const upsertMember = `
INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (userid) DO UPDATE SET
    userid            = excluded.userid,
    name              = coalesce(excluded.name, name),
    alias             = coalesce(excluded.alias, alias),
    mobile            = coalesce(excluded.mobile, mobile),
    telephone         = coalesce(excluded.telephone, telephone),
    email             = coalesce(excluded.email, email),
    biz_mail          = coalesce(excluded.biz_mail, biz_mail),
    position          = coalesce(excluded.position, position),
    gender            = coalesce(excluded.gender, gender),
    status            = coalesce(excluded.status, status),
    avatar            = coalesce(excluded.avatar, avatar),
    address           = coalesce(excluded.address, address),
    main_department   = coalesce(excluded.main_department, main_department),
    department        = coalesce(excluded.department, department),
    is_leader_in_dept = coalesce(excluded.is_leader_in_dept, is_leader_in_dept),
    direct_leader     = coalesce(excluded.direct_leader, direct_leader),
    updated_at        = excluded.updated_at`

const insertEvent = `
INSERT INTO events (received_at, create_time, event, change_type, subject, payload) VALUES (?, ?, ?, ?, ?, ?)`

var errClosed = errors.New("the store is closed")

type job struct {
	event *Event
	done  chan error
}

// Store has one goroutine that writes; it commits what waits together and answers after the commit.
type Store struct {
	database *sql.DB
	conn     *sql.Conn
	jobs     chan job
	closing  chan struct{}
	closed   chan struct{}
	group    int

	begin, commit, rollback, upsert, remove, insert *sql.Stmt
}

// OpenStore makes the tables if they are missing. group is the highest number of events in one transaction.
func OpenStore(path string, group int) (*Store, error) {
	ctx := context.Background()
	options := url.Values{"_journal_mode": {"WAL"}, "_synchronous": {"FULL"}, "_busy_timeout": {"4000"}, "_cache_size": {"-8192"}}
	database, err := sql.Open("sqlite3", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, err
	}
	// One connection for good: its statements stay prepared.
	conn, err := database.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.ExecContext(ctx, schema); err != nil {
		return nil, err
	}
	s := &Store{
		database: database,
		conn:     conn,
		jobs:     make(chan job, maxWaiting),
		closing:  make(chan struct{}),
		closed:   make(chan struct{}),
		group:    group,
	}
	for text, statement := range map[string]**sql.Stmt{
		"BEGIN IMMEDIATE":                      &s.begin,
		"COMMIT":                               &s.commit,
		"ROLLBACK":                             &s.rollback,
		upsertMember:                           &s.upsert,
		"DELETE FROM members WHERE userid = ?": &s.remove,
		insertEvent:                            &s.insert,
	} {
		if *statement, err = conn.PrepareContext(ctx, text); err != nil {
			return nil, err
		}
	}
	go s.write()
	return s, nil
}

// Save returns when the event is on the disk.
func (s *Store) Save(event *Event) error {
	done := make(chan error, 1)
	select {
	case s.jobs <- job{event, done}:
	case <-s.closing:
		return errClosed
	}
	select {
	case err := <-done:
		return err
	case <-s.closed:
		return errClosed
	}
}

// Close is called after the last Save has returned.
func (s *Store) Close() error {
	close(s.closing)
	<-s.closed
	for _, statement := range []*sql.Stmt{s.begin, s.commit, s.rollback, s.upsert, s.remove, s.insert} {
		if err := statement.Close(); err != nil {
			return err
		}
	}
	if err := s.conn.Close(); err != nil {
		return err
	}
	return s.database.Close()
}

func (s *Store) write() {
	defer close(s.closed)
	group := make([]job, 0, s.group)
	for {
		group = group[:0]
		select {
		case first := <-s.jobs:
			group = append(group, first)
		case <-s.closing:
			return
		}
	waiting:
		for len(group) < s.group {
			select {
			case next := <-s.jobs:
				group = append(group, next)
			default:
				break waiting
			}
		}
		err := s.transaction(group)
		if err == nil || len(group) == 1 {
			for _, job := range group {
				job.done <- err
			}
			continue
		}
		// One event must not fail the others.
		for i, job := range group {
			job.done <- s.transaction(group[i : i+1])
		}
	}
}

func (s *Store) transaction(group []job) error {
	if _, err := s.begin.Exec(); err != nil {
		return err
	}
	now := time.Now().Unix()
	for _, job := range group {
		if err := s.apply(job.event, now); err != nil {
			s.rollback.Exec()
			return err
		}
	}
	if _, err := s.commit.Exec(); err != nil {
		s.rollback.Exec()
		return err
	}
	return nil
}

func (s *Store) apply(e *Event, now int64) error {
	if e.Event == "change_contact" && e.UserID != "" {
		switch e.ChangeType {
		case "create_user", "update_user":
			if _, err := s.upsert.Exec(e.UserID, e.Name, e.Alias, e.Mobile, e.Telephone, e.Email, e.BizMail, e.Position,
				e.Gender, e.Status, e.Avatar, e.Address, e.MainDepartment, e.Department, e.IsLeaderInDept, e.DirectLeader,
				now); err != nil {
				return err
			}
		case "delete_user":
			if _, err := s.remove.Exec(e.UserID); err != nil {
				return err
			}
		}
	}
	_, err := s.insert.Exec(now, e.CreateTime, e.Event, e.ChangeType, e.UserID, e.Payload)
	return err
}
