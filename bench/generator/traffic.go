package main

import (
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
)

// A stream of random numbers: splitmix64. Unpredictable is not needed here, cheap is.
type source struct {
	state uint64
}

func newSource() *source {
	var seed [8]byte
	_, _ = crand.Read(seed[:])
	return &source{binary.LittleEndian.Uint64(seed[:])}
}

func (s *source) next() uint64 {
	s.state += 0x9e3779b97f4a7c15
	z := s.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

const (
	letters    = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	base64Text = letters + "+/"
	base64URL  = letters + "-_"
	hexDigits  = "0123456789abcdef"
)

// Append count characters of an alphabet of 16 or 64.
func (s *source) text(to []byte, alphabet string, count int) []byte {
	mask := uint64(len(alphabet) - 1)
	for count > 0 {
		for bits, left := s.next(), 10; left > 0 && count > 0; left, count = left-1, count-1 {
			to = append(to, alphabet[bits&mask])
			bits >>= 6
		}
	}
	return to
}

func (s *source) uuid(to []byte) []byte {
	to = append(s.text(to, hexDigits, 8), '-')
	to = append(s.text(to, hexDigits, 4), "-4"...)
	to = append(s.text(to, hexDigits, 3), "-8"...)
	to = append(s.text(to, hexDigits, 3), '-')
	return s.text(to, hexDigits, 12)
}

// A traffic makes requests. The id is what the response has to repeat in x-fapi-interaction-id, if any.
type traffic interface {
	request() (message []byte, id []byte)
	// The body that follows the message, in bytes: of an upload.
	body() int
}

func newTraffic(o *options) (traffic, error) {
	common := messages{source: newSource(), path: o.path, size: o.size, fields: o.fields}
	switch o.traffic {
	case "token":
		return &tokenTraffic{common}, nil
	case "api":
		token, err := readBearer(o.bearer)
		return &apiTraffic{common, token}, err
	case "same":
		return &sameTraffic{common}, nil
	case "download":
		return &bulkTraffic{common, 0}, nil
	case "upload":
		return &bulkTraffic{common, o.size}, nil
	}
	return nil, fmt.Errorf("-traffic: found %s, expected token, api, same, download or upload", o.traffic)
}

type messages struct {
	*source
	path         string
	size, fields int
	buffer, id   []byte
}

func (*messages) body() int { return 0 }

func (m *messages) begin(method, path string) {
	m.id = m.uuid(m.id[:0])
	m.buffer = append(m.buffer[:0], method...)
	m.buffer = append(m.buffer, ' ')
	m.buffer = append(m.buffer, path...)
}

func (m *messages) add(text string) { m.buffer = append(m.buffer, text...) }

func (m *messages) random(alphabet string, count int) {
	m.buffer = m.text(m.buffer, alphabet, count)
}

const (
	version    = " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n"
	formLength = 300
	form       = "grant_type=refresh_token&scope=accounts%20payments&client_id="
)

// A token request: client authentication by a password, and a form of 300 bytes.
type tokenTraffic struct{ messages }

func (t *tokenTraffic) request() ([]byte, []byte) {
	t.begin("POST", t.path)
	t.add(version)
	t.add("Authorization: Basic ")
	t.random(base64Text, 88)
	t.add("\r\nContent-Type: application/x-www-form-urlencoded\r\nx-fapi-interaction-id: ")
	t.buffer = append(t.buffer, t.id...)
	t.add("\r\nContent-Length: ")
	t.buffer = strconv.AppendInt(t.buffer, formLength, 10)
	t.add("\r\n\r\n")
	begun := len(t.buffer)
	t.add(form)
	t.buffer = t.uuid(t.buffer)
	t.add("&refresh_token=")
	t.random(base64URL, formLength-(len(t.buffer)-begun))
	return t.buffer, t.id
}

// A call of an API with an access token as long as a signed JWT, and a trace context (W3C).
type apiTraffic struct {
	messages
	token string
}

func readBearer(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	token, err := os.ReadFile(path)
	return string(token), err
}

func (t *apiTraffic) request() ([]byte, []byte) {
	t.begin("GET", "/accounts/")
	t.buffer = t.uuid(t.buffer)
	t.add("/transactions?page=")
	t.random(hexDigits, 8)
	t.add(version)
	t.add("Authorization: Bearer ")
	if t.token != "" {
		t.add(t.token)
	} else {
		t.add("eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.")
		t.random(base64URL, 700)
		t.add(".")
		t.random(base64URL, 86)
	}
	t.add("\r\ntraceparent: 00-")
	t.random(hexDigits, 32)
	t.add("-")
	t.random(hexDigits, 16)
	t.add("-01\r\nx-fapi-interaction-id: ")
	t.buffer = append(t.buffer, t.id...)
	t.add("\r\n\r\n")
	return t.buffer, t.id
}

// The same short request again and again, unless it has further fields.
type sameTraffic struct{ messages }

func (t *sameTraffic) request() ([]byte, []byte) {
	t.buffer = append(t.buffer[:0], "GET "+t.path+" HTTP/1.1\r\nHost: localhost\r\n"...)
	for number := 0; number < t.fields; number++ {
		t.add("X-Field-")
		t.buffer = strconv.AppendInt(t.buffer, int64(number), 10)
		t.add(": ")
		t.random(base64URL, 20)
		t.add("\r\n")
	}
	t.add("\r\n")
	return t.buffer, nil
}

// Long bodies, in responses or in requests.
type bulkTraffic struct {
	messages
	up int
}

func (t *bulkTraffic) body() int { return t.up }

func (t *bulkTraffic) request() ([]byte, []byte) {
	if t.up == 0 {
		t.buffer = append(t.buffer[:0], fmt.Sprintf("GET /bytes/%d HTTP/1.1\r\nHost: localhost\r\n\r\n", t.size)...)
	} else {
		t.buffer = append(t.buffer[:0], fmt.Sprintf(
			"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", t.up)...)
	}
	return t.buffer, nil
}

var zeros [1 << 18]byte

func sendBody(to io.Writer, left int) error {
	for left > 0 {
		piece := zeros[:]
		if left < len(piece) {
			piece = piece[:left]
		}
		if _, err := to.Write(piece); err != nil {
			return err
		}
		left -= len(piece)
	}
	return nil
}
