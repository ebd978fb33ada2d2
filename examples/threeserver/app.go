package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxNoteBytes = 4 << 10
	// maxBodyBytes leaves room for a note whose every byte is escaped as
	// \u00XX, and for white space.
	maxBodyBytes = 6*maxNoteBytes + 1024
)

// app is the notes service. It is an ordinary handler over an ordinary
// *sql.DB: what surrounds it (firewall, TLS, balancing, read/write splitting)
// reaches it only through the two funcs.
type app struct {
	server   string // the web server's name, shown on the page
	notes    noteStore
	identity func(context.Context) string // verified client identity, or ""
	node     func(context.Context) string // database node that answered last in this request
}

// routes returns the service's handler.
func (a *app) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.page)
	mux.HandleFunc("POST /{$}", a.postForm)
	mux.HandleFunc("GET /api/notes", a.list)
	mux.HandleFunc("POST /api/notes", a.post)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") })
	return mux
}

// requestError is a mistake of the client's, with the status that says so.
type requestError struct {
	status int
	text   string
}

func (e *requestError) Error() string { return e.text }

func (a *app) list(w http.ResponseWriter, r *http.Request) {
	notes, err := a.notes.list(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.sign(w, r)
	writeJSON(w, http.StatusOK, notes)
}

func (a *app) post(w http.ResponseWriter, r *http.Request) {
	text, err := jsonText(w, r)
	if err == nil {
		err = checkText(text)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := a.notes.add(r.Context(), text)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.sign(w, r)
	w.Header().Set("Location", "/api/notes")
	writeJSON(w, http.StatusCreated, n)
}

// postForm is where the page's form goes. It answers with a redirect, so that
// a reload does not post the note again.
func (a *app) postForm(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
	err := r.ParseForm()
	text := r.PostForm.Get("text")
	switch {
	case err != nil:
		err = bodyError(err)
	default:
		err = checkText(text)
	}
	if err == nil {
		_, err = a.notes.add(r.Context(), text)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// jsonText reads a body of the form {"text": "…"}.
func jsonText(w http.ResponseWriter, r *http.Request) (string, error) {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return "", &requestError{http.StatusUnsupportedMediaType, "Content-Type must be application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return "", bodyError(err)
	}
	if !utf8.Valid(body) {
		return "", &requestError{http.StatusBadRequest, "the body is not valid UTF-8"}
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	var in struct {
		Text *string `json:"text"`
	}
	if err := dec.Decode(&in); err != nil {
		return "", &requestError{http.StatusBadRequest, fmt.Sprintf(`the body must be {"text": "…"}: %v`, err)}
	}
	if _, err := dec.Token(); err != io.EOF {
		return "", &requestError{http.StatusBadRequest, "the body holds more than one JSON value"}
	}
	if in.Text == nil {
		return "", &requestError{http.StatusBadRequest, `the body must be {"text": "…"}: no text`}
	}
	return *in.Text, nil
}

func bodyError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLong()
	}
	return &requestError{http.StatusBadRequest, "the body cannot be read"}
}

func checkText(text string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return &requestError{http.StatusUnprocessableEntity, "text is empty"}
	case len(text) > maxNoteBytes:
		return tooLong()
	case !utf8.ValidString(text), strings.ContainsRune(text, 0):
		return &requestError{http.StatusUnprocessableEntity, "text must be UTF-8 without NUL"}
	}
	return nil
}

func tooLong() error {
	return &requestError{http.StatusRequestEntityTooLarge, fmt.Sprintf("text is longer than %d bytes", maxNoteBytes)}
}

// fail answers with the error's status. What went wrong inside the stack is
// not the client's to read: it gets a plain 503.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	a.sign(w, r)
	if bad, ok := errors.AsType[*requestError](err); ok {
		writeJSON(w, bad.status, map[string]string{"error": bad.text})
		return
	}
	w.Header().Set("Retry-After", "1")
	writeJSON(w, http.StatusServiceUnavailable, map[string]string{"error": "the database did not answer; try again"})
}

// sign says which web server and which database node answered.
func (a *app) sign(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Served-By", a.server)
	if node := a.node(r.Context()); node != "" {
		w.Header().Set("X-Database-Node", node)
	}
	w.Header().Set("Cache-Control", "no-store")
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // the client may have gone; there is nobody to tell
}

// note is one entry of the service.
type note struct {
	ID      int64     `json:"id"`
	Text    string    `json:"text"`
	Created time.Time `json:"created"`
}
