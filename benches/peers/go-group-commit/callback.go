package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"sort"
	"strings"
)

// WeCom pads to a multiple of this, not of the cipher's 16.
const padTo = 32

var (
	errSignature = errors.New("the signature does not match")
	errDecrypt   = errors.New("the text does not decrypt")
	errReceiver  = errors.New("the message is for another receive_id")
)

// Keys of one callback URL.
type Keys struct {
	token     string
	block     cipher.Block
	iv        []byte
	receiveID []byte
}

// NewKeys takes the EncodingAESKey as the console shows it.
func NewKeys(token, encodingAESKey, receiveID string) (*Keys, error) {
	key, err := base64.StdEncoding.DecodeString(encodingAESKey + "=")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return &Keys{token: token, block: block, iv: key[:aes.BlockSize], receiveID: []byte(receiveID)}, nil
}

type envelope struct {
	Encrypt string `xml:"Encrypt"`
}

// Open verifies and decrypts the body of a callback.
func (k *Keys) Open(signature, timestamp, nonce string, body []byte) ([]byte, error) {
	var envelope envelope
	if err := xml.Unmarshal(body, &envelope); err != nil {
		return nil, err
	}
	parts := []string{k.token, timestamp, nonce, envelope.Encrypt}
	sort.Strings(parts)
	digest := sha1.Sum([]byte(strings.Join(parts, "")))
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(digest[:])), []byte(signature)) != 1 {
		return nil, errSignature
	}
	frame, err := base64.StdEncoding.DecodeString(envelope.Encrypt)
	if err != nil {
		return nil, err
	}
	if len(frame) == 0 || len(frame)%aes.BlockSize != 0 {
		return nil, errDecrypt
	}
	cipher.NewCBCDecrypter(k.block, k.iv).CryptBlocks(frame, frame)
	frame, err = unpad(frame)
	if err != nil {
		return nil, err
	}
	// 16 random bytes and the length of the message precede it.
	if len(frame) < 20 {
		return nil, errDecrypt
	}
	length, rest := uint64(binary.BigEndian.Uint32(frame[16:])), frame[20:]
	if length > uint64(len(rest)) {
		return nil, errDecrypt
	}
	if subtle.ConstantTimeCompare(rest[length:], k.receiveID) != 1 {
		return nil, errReceiver
	}
	return rest[:length], nil
}

func unpad(frame []byte) ([]byte, error) {
	count := int(frame[len(frame)-1])
	if count == 0 || count > padTo || count > len(frame) {
		return nil, errDecrypt
	}
	text, padding := frame[:len(frame)-count], frame[len(frame)-count:]
	if !bytes.Equal(padding, bytes.Repeat([]byte{byte(count)}, count)) {
		return nil, errDecrypt
	}
	return text, nil
}

// Event is a contact event. A field that the event does not name is nil: it is unchanged.
type Event struct {
	Payload    string `xml:"-"`
	CreateTime int64  `xml:"CreateTime"`
	Event      string `xml:"Event"`
	ChangeType string `xml:"ChangeType"`

	UserID         string  `xml:"UserID"`
	Name           *string `xml:"Name"`
	Alias          *string `xml:"Alias"`
	Mobile         *string `xml:"Mobile"`
	Telephone      *string `xml:"Telephone"`
	Email          *string `xml:"Email"`
	BizMail        *string `xml:"BizMail"`
	Position       *string `xml:"Position"`
	Gender         *int    `xml:"Gender"`
	Status         *int    `xml:"Status"`
	Avatar         *string `xml:"Avatar"`
	Address        *string `xml:"Address"`
	MainDepartment *int64  `xml:"MainDepartment"`
	Department     *string `xml:"Department"`
	IsLeaderInDept *string `xml:"IsLeaderInDept"`
	DirectLeader   *string `xml:"DirectLeader"`
}

// ParseEvent reads a decrypted message.
func ParseEvent(payload []byte) (*Event, error) {
	event := &Event{Payload: string(payload)}
	if err := xml.Unmarshal(payload, event); err != nil {
		return nil, err
	}
	return event, nil
}
