package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

const patience = 30 * time.Second

var lastCipher atomic.Value

// A TLS connection, on which one response is read after each request.
type connection struct {
	tls    *tls.Conn
	reader *bufio.Reader
}

func dial(address string, config *tls.Config) (*connection, error) {
	plain, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	_ = plain.SetDeadline(time.Now().Add(patience))
	secured := tls.Client(plain, config)
	if err := secured.Handshake(); err != nil {
		plain.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	lastCipher.Store(tls.CipherSuiteName(secured.ConnectionState().CipherSuite))
	return &connection{secured, bufio.NewReaderSize(secured, 1<<14)}, nil
}

func (c *connection) close() { c.tls.Close() }

func (c *connection) exchange(requests traffic) error {
	message, id := requests.request()
	_ = c.tls.SetDeadline(time.Now().Add(patience))
	if _, err := c.tls.Write(message); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := sendBody(c.tls, requests.body()); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	if err := c.receive(id); err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return nil
}

// Read a response with status 200 and a Content-Length, and with the request's id, if it has one.
func (c *connection) receive(id []byte) error {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("found %q, expected status 200", line)
	}
	length, matches := -1, id == nil
	for {
		line, err = c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		case bytes.EqualFold(name, []byte("x-fapi-interaction-id")):
			matches = matches || bytes.Equal(value, id)
		}
	}
	if length < 0 || !matches {
		return errors.New("no Content-Length, or the x-fapi-interaction-id of another request")
	}
	_, err = io.CopyN(io.Discard, c.reader, int64(length))
	return err
}
