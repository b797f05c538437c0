// Members and events in SQLite. What arrives in one turn of the event loop is committed together.
import Database from 'better-sqlite3';

const SCHEMA = `
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
);`;

// Columns after userid, each with the element of the event that it comes from.
const TEXTS = {
    name: 'Name',
    alias: 'Alias',
    mobile: 'Mobile',
    telephone: 'Telephone',
    email: 'Email',
    biz_mail: 'BizMail',
    position: 'Position',
    avatar: 'Avatar',
    address: 'Address',
    department: 'Department',
    is_leader_in_dept: 'IsLeaderInDept',
    direct_leader: 'DirectLeader',
};
const NUMBERS = { gender: 'Gender', status: 'Status', main_department: 'MainDepartment' };
const COLUMNS = [...Object.keys(TEXTS), ...Object.keys(NUMBERS)];
const TEXT_ELEMENTS = Object.values(TEXTS);
const NUMBER_ELEMENTS = Object.values(NUMBERS);

// An element that the event does not name is null: it is unchanged.
const UPSERT = `
INSERT INTO members (userid, ${COLUMNS.join(', ')}, updated_at) VALUES (?, ${COLUMNS.map(() => '?').join(', ')}, ?)
ON CONFLICT (userid) DO UPDATE SET
    userid = excluded.userid,
    ${COLUMNS.map((name) => `${name} = coalesce(excluded.${name}, ${name})`).join(', ')},
    updated_at = excluded.updated_at`;

const INSERT = `
INSERT INTO events (received_at, create_time, event, change_type, subject, payload) VALUES (?, ?, ?, ?, ?, ?)`;

export function sqliteVersion() {
    const database = new Database(':memory:');
    return database.prepare('SELECT sqlite_version()').pluck().get();
}

export class Store {
    constructor(path) {
        this.database = new Database(path, { timeout: 4000 });
        this.database.pragma('journal_mode = WAL');
        this.database.pragma('synchronous = FULL');
        this.database.pragma('cache_size = -8192');
        this.database.exec(SCHEMA);
        this.upsert = this.database.prepare(UPSERT);
        this.remove = this.database.prepare('DELETE FROM members WHERE userid = ?');
        this.insert = this.database.prepare(INSERT);
        this.transaction = this.database.transaction((group) => {
            const now = Math.floor(Date.now() / 1000);
            for (const { event } of group) {
                this.apply(event, now);
            }
        }).immediate;
        this.waiting = [];
    }

    // Calls done(error) after the commit.
    save(event, done) {
        if (this.waiting.length === 0) {
            // After all sockets that are readable now have been read.
            setImmediate(() => this.commit());
        }
        this.waiting.push({ event, done });
    }

    close() {
        this.database.close();
    }

    commit() {
        const group = this.waiting;
        this.waiting = [];
        try {
            this.transaction(group);
        } catch (error) {
            this.commitAlone(group, error);
            return;
        }
        for (const { done } of group) {
            done();
        }
    }

    // One event must not fail the others.
    commitAlone(group, error) {
        for (const one of group) {
            let failure = group.length === 1 ? error : undefined;
            if (!failure) {
                try {
                    this.transaction([one]);
                } catch (error) {
                    failure = error;
                }
            }
            one.done(failure);
        }
    }

    apply({ payload, elements }, now) {
        const { CreateTime, Event = '', ChangeType = '', UserID = '' } = elements;
        if (Event === 'change_contact' && UserID !== '') {
            if (ChangeType === 'create_user' || ChangeType === 'update_user') {
                const texts = TEXT_ELEMENTS.map((name) => elements[name] ?? null);
                const numbers = NUMBER_ELEMENTS.map((name) => number(elements[name]));
                this.upsert.run(UserID, ...texts, ...numbers, now);
            } else if (ChangeType === 'delete_user') {
                this.remove.run(UserID);
            }
        }
        this.insert.run(now, number(CreateTime) ?? 0, Event, ChangeType, UserID, payload);
    }
}

function number(text) {
    return text === undefined || text === '' ? null : Number(text);
}
