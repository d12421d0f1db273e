// Command generator is the load generator of "python -m bench": a TLS client with a certificate.
//
// It opens its connections, sends some requests to warm up, prints "ready" and waits for a line on
// its standard input. Then it sends its load, prints its figures as one line of JSON, and ends.
// Debian's wrk, which this replaces, has no client certificates; ab repeats one request.
//
// Closed loop, the default: each connection sends its next request after the last response.
// With -rate: requests are due at random times (a Poisson process, the same one in each run), and a
// latency counts from the time at which the request was due (no coordinated omission).
// With -fresh: each request has a connection with a full handshake of its own.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type options struct {
	address, serverCertificate, certificate, key string
	traffic, path, bearer                        string
	connections, warm, count, size, fields       int
	seconds, rate                                float64
	fresh                                        bool
}

// Figures of one load. Times are in seconds, latencies in milliseconds.
type figures struct {
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	CPU      float64 `json:"cpu"`
	Cipher   string  `json:"cipher"`
	P50      float64 `json:"p50"`
	P90      float64 `json:"p90"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	Max      float64 `json:"max"`
}

// A schedule gives out the requests: the time from which a latency counts, or false at the end.
type schedule interface {
	next() (time.Time, bool)
}

// Requests without a pause, up to a count and a time.
type closedLoop struct {
	left int64
	end  time.Time
}

func (c *closedLoop) next() (time.Time, bool) {
	now := time.Now()
	return now, now.Before(c.end) && atomic.AddInt64(&c.left, -1) >= 0
}

// Requests at the times of a Poisson process.
type paced struct {
	due chan time.Time
}

func (p *paced) next() (time.Time, bool) {
	due, more := <-p.due
	return due, more
}

// A timer of Go's is up to a millisecond late, because its poller waits for whole milliseconds.
// nanosleep(2) on a thread of its own is late by some 60 microseconds.
func (p *paced) pace(start time.Time, rate, seconds float64) {
	runtime.LockOSThread()
	gaps := source{state: 1}
	for at := 0.0; ; {
		at -= math.Log(1-float64(gaps.next()>>11)/(1<<53)) / rate
		if at >= seconds {
			break
		}
		due := start.Add(time.Duration(at * float64(time.Second)))
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			pause := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&pause, nil)
		}
		p.due <- due
	}
	close(p.due)
}

func newSchedule(o *options) schedule {
	start := time.Now()
	if o.rate > 0 {
		p := &paced{make(chan time.Time, int(2*o.rate*o.seconds)+1000)}
		go p.pace(start, o.rate, o.seconds)
		return p
	}
	c := &closedLoop{math.MaxInt64, start.Add(time.Hour)}
	if o.count > 0 {
		c.left = int64(o.count)
	}
	if o.seconds > 0 {
		c.end = start.Add(time.Duration(o.seconds * float64(time.Second)))
	}
	return c
}

// One worker has at most one connection at a time.
type worker struct {
	options    *options
	config     *tls.Config
	requests   traffic
	connection *connection
	latencies  []int64
}

func (w *worker) one() error {
	if w.connection == nil {
		opened, err := dial(w.options.address, w.config)
		if err != nil {
			return err
		}
		w.connection = opened
	}
	err := w.connection.exchange(w.requests)
	if w.options.fresh && err == nil {
		w.close()
	}
	return err
}

func (w *worker) close() {
	if w.connection != nil {
		w.connection.close()
		w.connection = nil
	}
}

func (w *worker) run(s schedule) error {
	for {
		since, more := s.next()
		if !more {
			return nil
		}
		if err := w.one(); err != nil {
			return err
		}
		w.latencies = append(w.latencies, int64(time.Since(since)))
	}
}

// Do something with all workers at once; the first error counts.
func each(workers []*worker, work func(*worker) error) error {
	found := make([]error, len(workers))
	var group sync.WaitGroup
	for number := range workers {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			found[number] = work(workers[number])
		}(number)
	}
	group.Wait()
	for _, err := range found {
		if err != nil {
			return err
		}
	}
	return nil
}

func tlsConfig(o *options) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(o.certificate, o.key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(o.serverCertificate)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("-server-certificate: found no PEM, expected a certificate")
	}
	return &tls.Config{
		ServerName: "localhost",
		MinVersion: tls.VersionTLS13,
		// One group for all servers: a newer OpenSSL would choose the dearer X25519MLKEM768.
		CurvePreferences: []tls.CurveID{tls.X25519},
		// The certificate is sent to a server that names other authorities, too.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &pair, nil
		},
		// The server's certificate is compared with the one expected, byte by byte.
		InsecureSkipVerify: true,
		VerifyPeerCertificate: func(chain [][]byte, _ [][]*x509.Certificate) error {
			if len(chain) == 0 || !bytes.Equal(chain[0], block.Bytes) {
				return errors.New("the server has another certificate than expected")
			}
			return nil
		},
	}, nil
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func summary(workers []*worker) figures {
	var all []int64
	for _, w := range workers {
		all = append(all, w.latencies...)
	}
	if len(all) == 0 {
		return figures{}
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(share float64) float64 {
		place := int(math.Ceil(share*float64(len(all)))) - 1
		return float64(all[place]) / 1e6
	}
	return figures{
		Requests: len(all), P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999), Max: at(1),
	}
}

func drive(o *options) (figures, error) {
	config, err := tlsConfig(o)
	if err != nil {
		return figures{}, err
	}
	workers := make([]*worker, o.connections)
	for number := range workers {
		requests, err := newTraffic(o)
		if err != nil {
			return figures{}, err
		}
		workers[number] = &worker{options: o, config: config, requests: requests}
	}
	warm := func(w *worker) error {
		for number := 0; number < o.warm; number++ {
			if err := w.one(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := each(workers, warm); err != nil {
		return figures{}, err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return figures{}, fmt.Errorf("standard input ended: %w", err)
	}
	before, start, s := cpuSeconds(), time.Now(), newSchedule(o)
	if err := each(workers, func(w *worker) error { return w.run(s) }); err != nil {
		return figures{}, err
	}
	seconds, cpu := time.Since(start).Seconds(), cpuSeconds()-before
	found := summary(workers)
	found.Seconds, found.CPU, found.Cipher = seconds, cpu, lastCipher.Load().(string)
	return found, nil
}

func main() {
	o := &options{}
	flag.StringVar(&o.address, "address", "", "host and port of the server")
	flag.StringVar(&o.serverCertificate, "server-certificate", "", "file: what the server must present")
	flag.StringVar(&o.certificate, "certificate", "", "file of the client's certificate")
	flag.StringVar(&o.key, "key", "", "file of the client's key")
	flag.StringVar(&o.traffic, "traffic", "token", "token, api, same, download or upload")
	flag.StringVar(&o.path, "path", "/token", "path of the requests; api adds a unique one")
	flag.StringVar(&o.bearer, "bearer", "", "file of the access token of api; a new one each time without it")
	flag.IntVar(&o.connections, "connections", 16, "how many at once")
	flag.IntVar(&o.warm, "warm", 20, "requests of each connection before the load")
	flag.IntVar(&o.count, "count", 0, "end after so many requests")
	flag.Float64Var(&o.seconds, "seconds", 0, "end after so much time")
	flag.Float64Var(&o.rate, "rate", 0, "requests per second, instead of a closed loop")
	flag.IntVar(&o.size, "size", 0, "bytes of a download or upload")
	flag.IntVar(&o.fields, "fields", 0, "further header fields of same, each with a unique value")
	flag.BoolVar(&o.fresh, "fresh", false, "a connection for each request")
	flag.Parse()
	// A collection takes CPU from the server under test: one in sixteen times the usual memory.
	debug.SetGCPercent(1600)
	found, err := drive(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	line, _ := json.Marshal(found)
	fmt.Println(string(line))
}
