package main

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// page shows the notes, the form, and who answered whom.
func (a *app) page(w http.ResponseWriter, r *http.Request) {
	notes, err := a.notes.list(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	var buf bytes.Buffer
	err = pageTemplate.Execute(&buf, struct {
		Notes                  []note
		Server, Node, Identity string
		MaxBytes               int
	}{notes, a.server, a.node(r.Context()), a.identity(r.Context()), maxNoteBytes})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.sign(w, r)
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	w.Write(buf.Bytes())
}
