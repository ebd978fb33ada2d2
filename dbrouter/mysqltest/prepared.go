package mysqltest

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// maxPrepared bounds the prepared statements of one connection.
	maxPrepared = 1024
	// maxParams is the protocol's limit.
	maxParams = math.MaxUint16
)

// prepared is a prepared statement of one connection.
type prepared struct {
	st    *statement
	types []byte         // two bytes for each parameter, from the last execution that sent them
	long  map[int][]byte // values that came ahead of the execution
	size  int            // their bytes
	bad   *Error         // what went wrong with them; told at the execution
}

// prepare answers COM_STMT_PREPARE.
func (c *conn) prepare(sql string) {
	st := parse(sql)
	if err := st.check(); err != nil {
		c.sendError(asError(err))
		return
	}
	if st.params > maxParams {
		c.sendError(errorf(1390, "HY000", "Prepared statement contains too many placeholders"))
		return
	}
	if len(c.prepared) >= maxPrepared {
		c.sendError(errorf(1461, "42000", "Can't create more than max_prepared_stmt_count statements (current value: %d)", maxPrepared))
		return
	}
	c.lastStmt++
	c.prepared[c.lastStmt] = &prepared{st: st}
	b := binary.LittleEndian.AppendUint32([]byte{0}, c.lastStmt)
	// The columns are told with each result, as the handler decides on them.
	b = append(b, 0, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(st.params))
	c.write(append(b, 0, 0, 0))
	for range st.params {
		c.write(columnDefinition(Column{Name: "?", Type: Text}))
	}
	if st.params > 0 {
		c.sendEOF()
	}
}

// longData answers COM_STMT_SEND_LONG_DATA, which has no answer.
func (c *conn) longData(d decoder) error {
	p, i := c.prepared[uint32(d.uint(4))], int(d.uint(2))
	if d.bad {
		return errMalformed
	}
	if p == nil {
		return nil
	}
	p.size += len(d.b)
	if i >= p.st.params || p.size >= maxPayload {
		p.bad = errorf(1105, "HY000", "Parameter of prepared statement which is set through mysql_send_long_data() is out of range")
		p.long = nil
		return nil
	}
	if p.long == nil {
		p.long = make(map[int][]byte)
	}
	p.long[i] = append(p.long[i], d.b...)
	return nil
}

func (p *prepared) reset() { p.long, p.size, p.bad = nil, 0, nil }

// execute answers COM_STMT_EXECUTE.
func (c *conn) execute(d decoder) error {
	id := uint32(d.uint(4))
	cursor := d.uint(1)
	d.uint(4) // the iteration count, always one
	if d.bad {
		return errMalformed
	}
	p := c.prepared[id]
	if p == nil {
		c.sendError(errorf(1243, "HY000", "Unknown prepared statement handler (%d) given to EXECUTE", id))
		return nil
	}
	defer p.reset()
	if p.bad != nil {
		c.sendError(p.bad)
		return nil
	}
	if cursor != 0 {
		c.sendError(errorf(1235, "42000", "This server does not support cursors"))
		return nil
	}
	args, err := p.args(&d)
	if err != nil {
		return err
	}
	return c.run(p.st, args, true)
}

// args reads the values of the placeholders.
func (p *prepared) args(d *decoder) ([]any, error) {
	n := p.st.params
	if n == 0 {
		return nil, nil
	}
	null := d.bytes(uint64(n+7) / 8)
	if d.uint(1) == 1 {
		p.types = slices.Clone(d.bytes(uint64(2 * n)))
	}
	if d.bad || len(p.types) != 2*n {
		return nil, errMalformed
	}
	args := make([]any, n)
	for i := range args {
		if null[i/8]&(1<<(i%8)) != 0 {
			continue
		}
		t, unsigned := p.types[2*i], p.types[2*i+1]&0x80 != 0
		if v, ok := p.long[i]; ok {
			args[i] = bytesOrText(t, v)
			continue
		}
		args[i] = param(d, t, unsigned)
		if d.bad {
			return nil, errMalformed
		}
	}
	return args, nil
}

// param reads one value of the binary protocol.
func param(d *decoder, t byte, unsigned bool) any {
	integer := func(n int) any {
		v := d.uint(n)
		if unsigned {
			return v
		}
		shift := 64 - 8*n
		return int64(v<<shift) >> shift
	}
	switch t {
	case 0x01:
		return integer(1)
	case 0x02, 0x0d: // SMALLINT, YEAR
		return integer(2)
	case 0x03, 0x09: // INT, MEDIUMINT
		return integer(4)
	case 0x08:
		return integer(8)
	case 0x04:
		return float64(math.Float32frombits(uint32(d.uint(4))))
	case 0x05:
		return math.Float64frombits(d.uint(8))
	case 0x06:
		return nil
	case 0x07, 0x0a, 0x0c: // TIMESTAMP, DATE, DATETIME
		return paramDateTime(d)
	case 0x0b:
		return paramTime(d)
	case 0x00, 0x0f, 0x10, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff:
		return bytesOrText(t, slices.Clone(d.lenencBytes()))
	}
	d.bad = true
	return nil
}

// bytesOrText makes the value of a BLOB type bytes and another one a string.
func bytesOrText(t byte, v []byte) any {
	if t >= 0xf9 && t <= 0xfc {
		if v == nil {
			v = []byte{}
		}
		return v
	}
	return string(v)
}

func paramDateTime(d *decoder) any {
	n := d.uint(1)
	b := decoder{b: d.bytes(n)}
	if n != 0 && n != 4 && n != 7 && n != 11 {
		d.bad = true
	}
	if d.bad || n == 0 {
		return time.Time{}
	}
	year, month, day := int(b.uint(2)), time.Month(b.uint(1)), int(b.uint(1))
	var hour, minute, second, micros int
	if n > 4 {
		hour, minute, second = int(b.uint(1)), int(b.uint(1)), int(b.uint(1))
	}
	if n > 7 {
		micros = int(b.uint(4))
	}
	t := time.Date(year, month, day, hour, minute, second, micros*1000, time.UTC)
	if micros > 999999 || t.Year() != year || t.Month() != month || t.Day() != day || t.Hour() != hour || t.Minute() != minute || t.Second() != second {
		d.bad = true // 31 February
	}
	return t
}

// paramTime returns a TIME, which may exceed a day, in its text form.
func paramTime(d *decoder) any {
	n := d.uint(1)
	b := decoder{b: d.bytes(n)}
	if n != 0 && n != 8 && n != 12 {
		d.bad = true
	}
	if d.bad || n == 0 {
		return "00:00:00"
	}
	sign := ""
	if b.uint(1) == 1 {
		sign = "-"
	}
	days := b.uint(4)
	s := fmt.Sprintf("%s%02d:%02d:%02d", sign, days*24+b.uint(1), b.uint(1), b.uint(1))
	if n == 12 {
		s += fmt.Sprintf(".%06d", b.uint(4))
	}
	return s
}
