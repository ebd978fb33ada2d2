package acme

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/palisade-go/palisade/internal/testcert"
)

// memory is a certmagic.Storage in memory, which counts what it is asked for and
// can be told to fail.
type memory struct {
	mu     sync.Mutex // guards the rest
	values map[string][]byte
	locks  map[string]chan struct{}
	calls  map[string]int // by "Method" and by "Method key"
	fail   func(method, key string) error
	delay  time.Duration // of each call
	list   time.Duration // of List, besides
}

func newMemory() *memory {
	return &memory{values: make(map[string][]byte), locks: make(map[string]chan struct{}), calls: make(map[string]int)}
}

// begin counts a call. The caller unlocks mu.
func (m *memory) begin(method, key string) error {
	time.Sleep(m.delay)
	m.mu.Lock()
	m.calls[method]++
	m.calls[method+" "+key]++
	if m.fail == nil {
		return nil
	}
	return m.fail(method, key)
}

// reset forgets the calls so far, and sets what fails from now on.
func (m *memory) reset(fail func(method, key string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.calls)
	m.fail = fail
}

func (m *memory) count(call string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[call]
}

func (m *memory) keys(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.values)), func(k string) bool { return !strings.HasPrefix(k, prefix) })
}

func (m *memory) Load(_ context.Context, key string) ([]byte, error) {
	err := m.begin("Load", key)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	value, ok := m.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(value), nil
}

func (m *memory) Store(_ context.Context, key string, value []byte) error {
	err := m.begin("Store", key)
	defer m.mu.Unlock()
	if err == nil {
		m.values[key] = bytes.Clone(value)
	}
	return err
}

func (m *memory) Delete(_ context.Context, key string) error {
	err := m.begin("Delete", key)
	defer m.mu.Unlock()
	if err == nil {
		delete(m.values, key)
	}
	return err
}

func (m *memory) Exists(ctx context.Context, key string) bool {
	_, err := m.Load(ctx, key)
	return err == nil
}

func (m *memory) List(_ context.Context, prefix string, _ bool) ([]string, error) {
	defer time.Sleep(m.list) // what is stored meanwhile is not in the list
	err := m.begin("List", prefix)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []string
	for key := range m.values {
		if strings.HasPrefix(key, prefix+"/") {
			out = append(out, key)
		}
	}
	if out == nil {
		return nil, fs.ErrNotExist
	}
	return out, nil
}

func (m *memory) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{}, errors.ErrUnsupported
}

func (m *memory) Lock(ctx context.Context, name string) error {
	err := m.begin("Lock", name)
	lock := m.locks[name]
	if lock == nil {
		lock = make(chan struct{}, 1)
		m.locks[name] = lock
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memory) Unlock(ctx context.Context, name string) error {
	err := m.begin("Unlock", name)
	lock := m.locks[name]
	m.mu.Unlock()
	if err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	<-lock
	return nil
}

// authorityAt is the URL of a fakeAuthority.
const authorityAt = "https://authority.test"

// fakeAuthority is an ACME server that is called without a network. It believes
// every proof, and verifies no signatures.
type fakeAuthority struct {
	t  testing.TB
	ca *testcert.CA

	mu       sync.Mutex // guards the rest
	life     time.Duration
	hang     bool                                 // does not answer
	prove    bool                                 // wants challenges, which it does not look at
	refuse   func(path string) *acme.Problem      // nil: nothing
	answer   func(path string, h http.Header) int // an HTTP status instead, if not zero
	window   func() (start, end time.Time)        // of renewal information; nil: none
	retry    time.Duration                        // of renewal information
	explain  string
	calls    map[string]int // by path
	orders   []acme.Order   // as they were asked for
	accounts []map[string]any
	revoked  []map[string]any
	pending  map[string]acme.Order // by path
	solved   []string              // paths of challenges
	ready    map[string]bool       // names whose challenge was begun
	certs    map[string][]byte
	serial   int64
}

func newFakeAuthority(t testing.TB) *fakeAuthority {
	return &fakeAuthority{
		t: t, ca: testcert.NewCA(t), life: 90 * day, calls: make(map[string]int), pending: make(map[string]acme.Order),
		certs: make(map[string][]byte), ready: make(map[string]bool), serial: time.Now().UnixNano(),
	}
}

// become has an authority of a Source be this one, under a URL of its own: acmez
// remembers for the whole process what a directory says.
func (f *fakeAuthority) become(a *authority) *fakeAuthority {
	a.Directory = fmt.Sprintf("%s/dir/%d", authorityAt, mathrand.Int64())
	a.client.Directory = a.Directory
	a.client.HTTPClient = &http.Client{Transport: heedful{f, &a.pace}}
	return f
}

func (f *fakeAuthority) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[path]
}

// set changes the authority while it is in use.
func (f *fakeAuthority) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeAuthority) RoundTrip(r *http.Request) (*http.Response, error) {
	var jws struct{ Payload string }
	if r.Body != nil {
		defer r.Body.Close()
		if err := json.NewDecoder(r.Body).Decode(&jws); err != nil && err != io.EOF {
			return nil, err
		}
	}
	payload, err := base64.RawURLEncoding.DecodeString(jws.Payload)
	if err != nil {
		return nil, err
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if f.hang {
		f.mu.Unlock()
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	defer f.mu.Unlock()
	path, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	f.calls[path]++
	header := http.Header{"Replay-Nonce": {"n"}, "Content-Type": {"application/json"}}
	status, body := http.StatusOK, any(nil)
	switch {
	case f.answer != nil:
		status = f.answer(path, header)
	case f.refuse != nil:
		if problem := f.refuse(path); problem != nil {
			header.Set("Content-Type", "application/problem+json")
			status, body = problem.Status, problem
		}
	}
	if body == nil && (status == 0 || status == http.StatusOK) {
		status, body = f.serve(path, rest, payload, header)
	}
	data, ok := body.([]byte)
	if !ok {
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(data)), Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
}

func (f *fakeAuthority) serve(path, rest string, payload []byte, header http.Header) (int, any) {
	at := func(elem ...string) string { return authorityAt + "/" + strings.Join(elem, "/") }
	switch path {
	case "dir":
		return 200, map[string]any{"newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order"), "revokeCert": at("revoke"), "renewalInfo": at("ari"), "meta": map[string]any{"caaIdentities": []string{"authority.test"}, "profiles": map[string]string{"brief": "", "other": ""}}}
	case "nonce":
		return 200, nil
	case "account":
		var account map[string]any
		json.Unmarshal(payload, &account)
		f.accounts = append(f.accounts, account)
		header.Set("Location", at("account", fmt.Sprint(len(f.accounts))))
		return 201, map[string]any{"status": "valid"}
	case "order":
		return f.order(at, payload, header)
	case "authz":
		return 200, f.authz(at, rest)
	case "challenge":
		f.solved = append(f.solved, rest)
		_, name, _ := strings.Cut(rest, "/")
		f.ready[name] = true
		return 200, map[string]any{"type": strings.TrimSuffix(rest, "/"+name), "status": "processing", "url": at("challenge", rest)}
	case "finalize":
		return f.finalize(at, rest, payload)
	case "cert":
		header.Set("Content-Type", "application/pem-certificate-chain")
		return 200, f.certs[rest]
	case "revoke":
		var revoked map[string]any
		json.Unmarshal(payload, &revoked)
		f.revoked = append(f.revoked, revoked)
		return 200, nil
	case "ari":
		return f.renewalInfo(header)
	}
	f.t.Errorf("the authority was asked for %s", path)
	return 404, nil
}

func (f *fakeAuthority) order(at func(...string) string, payload []byte, header http.Header) (int, any) {
	var o acme.Order
	json.Unmarshal(payload, &o)
	f.orders = append(f.orders, o)
	id, name := fmt.Sprint(len(f.orders)), o.Identifiers[0].Value
	o.Status, o.Authorizations, o.Finalize = "ready", []string{at("authz", name)}, at("finalize", id)
	f.pending[id] = o
	header.Set("Location", at("order", id))
	return 201, o
}

func (f *fakeAuthority) authz(at func(...string) string, name string) any {
	status := "valid"
	if f.prove && !f.ready[name] {
		status = "pending"
	}
	var challenges []map[string]any
	for _, kind := range []string{acme.ChallengeTypeHTTP01, acme.ChallengeTypeTLSALPN01} {
		challenges = append(challenges, map[string]any{"type": kind, "status": status, "token": "token-" + kind, "url": at("challenge", kind, name)})
	}
	return map[string]any{"status": status, "identifier": map[string]any{"type": "dns", "value": name}, "challenges": challenges}
}

func (f *fakeAuthority) finalize(at func(...string) string, id string, payload []byte) (int, any) {
	var sent struct{ CSR string }
	json.Unmarshal(payload, &sent)
	der, _ := base64.RawURLEncoding.DecodeString(sent.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		f.t.Error(err)
		return 400, nil
	}
	f.serial++
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(f.serial), DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, AuthorityKeyId: []byte{1, 2, 3},
		NotBefore: time.Now().Add(-time.Second), NotAfter: time.Now().Add(f.life - time.Second),
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, f.ca.Cert, csr.PublicKey, f.ca.Key)
	if err != nil {
		f.t.Error(err)
		return 500, nil
	}
	f.certs[id] = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), f.ca.PEM()...)
	o := f.pending[id]
	o.Status, o.Certificate = "valid", at("cert", id)
	return 200, o
}

func (f *fakeAuthority) renewalInfo(header http.Header) (int, any) {
	if f.window == nil {
		return 404, nil
	}
	start, end := f.window()
	if f.retry != 0 {
		header.Set("Retry-After", fmt.Sprint(int(f.retry/time.Second)))
	}
	return 200, map[string]any{"suggestedWindow": map[string]any{"start": start, "end": end}, "explanationURL": f.explain}
}
