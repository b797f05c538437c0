// A receiver of WeCom's directory callbacks, to be measured beside wecom-dirsync.
//
// The settings are environment variables: PEER_LISTEN, PEER_PATH, PEER_DB, PEER_TOKEN, PEER_AES_KEY, PEER_RECEIVE_ID.
import http from 'node:http';

import { Keys, Refused, parseEvent } from './callback.js';
import { Store, sqliteVersion } from './store.js';

// WeCom's events have a few kilobytes.
const MAX_BODY = 64 * 1024;

if (process.argv.includes('--version')) {
    console.log(`node ${process.version}, SQLite ${sqliteVersion()}`);
    process.exit(0);
}

const { PEER_LISTEN, PEER_PATH, PEER_DB, PEER_TOKEN, PEER_AES_KEY, PEER_RECEIVE_ID } = process.env;
const keys = new Keys(PEER_TOKEN, PEER_AES_KEY, PEER_RECEIVE_ID);
const store = new Store(PEER_DB);

function answer(response, status, text) {
    const body = Buffer.from(text);
    response.writeHead(status, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
    response.end(body);
}

function receive(query, body, response) {
    let event;
    try {
        event = parseEvent(keys.open(new URLSearchParams(query), body));
    } catch (error) {
        answer(response, error instanceof Refused ? error.status : 400, 'refused');
        return;
    }
    store.save(event, (error) => {
        // WeCom takes an answer other than 200 for a failure and sends the event again.
        if (error) {
            console.error(`not stored: ${error.message}`);
            answer(response, 503, 'not stored');
        } else {
            answer(response, 200, 'success');
        }
    });
}

const server = http.createServer((request, response) => {
    const [path, query = ''] = request.url.split('?', 2);
    if (path !== PEER_PATH) {
        answer(response, 404, 'not found');
        return;
    }
    if (request.method !== 'POST') {
        answer(response, 405, 'only POST');
        return;
    }
    const chunks = [];
    let length = 0;
    request.on('data', (chunk) => {
        length += chunk.length;
        if (length > MAX_BODY) {
            request.destroy();
        } else {
            chunks.push(chunk);
        }
    });
    request.on('end', () => receive(query, Buffer.concat(chunks, length), response));
});

const [host, port] = PEER_LISTEN.split(':');
server.listen(Number(port), host, () => {
    console.error(`ready: callbacks=http://${host}:${server.address().port}${PEER_PATH}`);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
        server.close(() => store.close());
        server.closeIdleConnections();
    });
}
