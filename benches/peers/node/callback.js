// Verifies, decrypts and reads callbacks.
import crypto from 'node:crypto';

import { XMLParser } from 'fast-xml-parser';

// WeCom pads to a multiple of this, not of the cipher's 16.
const PAD_TO = 32;

const parser = new XMLParser({ parseTagValue: false, ignoreAttributes: true });

export class Refused extends Error {
    constructor(status, message) {
        super(message);
        this.status = status;
    }
}

export class Keys {
    constructor(token, encodingAesKey, receiveId) {
        this.token = token;
        this.key = Buffer.from(`${encodingAesKey}=`, 'base64');
        if (this.key.length !== 32) {
            throw new Error('the EncodingAESKey is not 43 letters and digits');
        }
        this.iv = this.key.subarray(0, 16);
        this.receiveId = Buffer.from(receiveId);
    }

    // The message in the body of a callback.
    open(query, body) {
        const encrypted = parser.parse(body.toString('utf8')).xml?.Encrypt;
        if (typeof encrypted !== 'string') {
            throw new Refused(400, 'no Encrypt');
        }
        const parts = [this.token, query.get('timestamp') ?? '', query.get('nonce') ?? '', encrypted];
        const expected = crypto.createHash('sha1').update(parts.sort().join('')).digest('hex');
        const signature = query.get('msg_signature') ?? '';
        if (!isEqual(Buffer.from(expected), Buffer.from(signature))) {
            throw new Refused(403, 'the signature does not match');
        }
        const decipher = crypto.createDecipheriv('aes-256-cbc', this.key, this.iv).setAutoPadding(false);
        const padded = Buffer.concat([decipher.update(encrypted, 'base64'), decipher.final()]);
        const frame = unpad(padded);
        // 16 random bytes and the length of the message precede it.
        if (frame.length < 20) {
            throw new Refused(400, 'the text does not decrypt');
        }
        const end = 20 + frame.readUInt32BE(16);
        if (end > frame.length) {
            throw new Refused(400, 'the text does not decrypt');
        }
        if (!isEqual(frame.subarray(end), this.receiveId)) {
            throw new Refused(400, 'the message is for another receive_id');
        }
        return frame.toString('utf8', 20, end);
    }
}

function isEqual(a, b) {
    return a.length === b.length && crypto.timingSafeEqual(a, b);
}

function unpad(padded) {
    const count = padded.at(-1) ?? 0;
    const text = padded.subarray(0, padded.length - count);
    const isPadding = padded.subarray(text.length).every((byte) => byte === count);
    if (count === 0 || count > PAD_TO || count > padded.length || !isPadding) {
        throw new Refused(400, 'the text does not decrypt');
    }
    return text;
}

// A contact event: its payload and its elements by name.
export function parseEvent(payload) {
    const elements = parser.parse(payload).xml;
    if (typeof elements !== 'object') {
        throw new Refused(400, 'no event');
    }
    return { payload, elements };
}
