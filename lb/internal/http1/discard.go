package http1

// Discard ends the body without waiting for more of it. If all of a body of
// known length has come already, the connection can be used again.
func (b *Body) Discard() {
	if b.err == nil && b.length >= 0 && b.left <= int64(b.r.Buffered()) {
		var scratch [512]byte
		for b.err == nil {
			b.Read(scratch[:])
		}
	}
	b.Close()
}
