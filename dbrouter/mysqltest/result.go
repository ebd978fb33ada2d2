package mysqltest

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Status flags of OK and EOF packets.
const (
	statusInTrans         = 1 << 0
	statusAutocommit      = 1 << 1
	statusInTransReadOnly = 1 << 13
	statusSessionChanged  = 1 << 14
)

// maxColumns is MariaDB's limit.
const maxColumns = 4096

// wireType is a column's type as the protocol numbers it.
type wireType struct {
	code      byte
	flags     uint16
	charset   byte
	length    uint32
	decimals  byte
	lenencBin bool // binary rows carry its text
}

func (t Type) wire() wireType {
	switch t {
	case Int:
		return wireType{code: 0x08, flags: 1 << 7, charset: binaryC, length: 20}
	case Uint:
		return wireType{code: 0x08, flags: 1<<5 | 1<<7, charset: binaryC, length: 20}
	case Float:
		return wireType{code: 0x05, flags: 1 << 7, charset: binaryC, length: 22, decimals: 31}
	case Bytes:
		return wireType{code: 0xfc, flags: 1<<4 | 1<<7, charset: binaryC, length: math.MaxUint32, lenencBin: true}
	case Decimal:
		return wireType{code: 0xf6, flags: 1 << 7, charset: binaryC, length: 67, decimals: 31, lenencBin: true}
	case JSON:
		return wireType{code: 0xf5, flags: 1<<4 | 1<<7, charset: utf8mb4, length: math.MaxUint32, lenencBin: true}
	case DateTime:
		return wireType{code: 0x0c, flags: 1 << 7, charset: binaryC, length: 26, decimals: 6}
	case Date:
		return wireType{code: 0x0a, flags: 1 << 7, charset: binaryC, length: 10}
	}
	return wireType{code: 0xfd, charset: utf8mb4, length: math.MaxUint32, lenencBin: true}
}

// typeOf is the type of a column that holds v.
func typeOf(v any) Type {
	switch v.(type) {
	case bool, int, int8, int16, int32, int64:
		return Int
	case uint, uint8, uint16, uint32, uint64:
		return Uint
	case float32, float64:
		return Float
	case []byte:
		return Bytes
	case time.Time:
		return DateTime
	}
	return Text
}

// resolve returns the columns with their types settled, or an error if the rows
// do not fit the columns.
func (r Result) resolve() ([]Column, error) {
	if len(r.Columns) > maxColumns {
		return nil, errorf(1117, "42000", "Too many columns")
	}
	cols := append([]Column(nil), r.Columns...)
	for i, row := range r.Rows {
		if len(row) != len(cols) {
			return nil, fmt.Errorf("the handler's row %d has %d values for %d columns", i, len(row), len(cols))
		}
		for j, v := range row {
			if cols[j].Type == Infer && !isNull(v) {
				cols[j].Type = typeOf(v)
			}
		}
	}
	for i := range cols {
		if cols[i].Type == Infer {
			cols[i].Type = Text
		}
	}
	return cols, nil
}

// sendOK sends an OK packet with this head, 0x00, or 0xfe at a result's end.
func (c *conn) sendOK(r Result, head byte) {
	b := appendLenenc([]byte{head}, r.AffectedRows)
	b = appendLenenc(b, r.LastInsertID)
	status := c.status()
	changes := c.changes()
	if len(changes) > 0 {
		status |= statusSessionChanged
	}
	b = binary.LittleEndian.AppendUint16(b, status)
	b = binary.LittleEndian.AppendUint16(b, r.Warnings)
	if len(changes) > 0 {
		b = appendLenencString(b, "") // the info text
		b = appendLenencString(b, string(changes))
	}
	c.write(b)
}

// changes is the session state to tell the client: the GTID of its write, if the
// client asked to be told.
func (c *conn) changes() []byte {
	if c.caps&capSessionTrack == 0 || !c.gtidChanged {
		return nil
	}
	if !c.s.mariaDB() {
		if !c.tracksGTIDs() || !c.s.gtidMode() {
			return nil
		}
		c.gtidChanged = false
		// The entry of type 3 holds the encoding, of which there is one, and the set.
		set := fmt.Sprintf("%s:%d", uuid(c.lastGTID.server), c.lastNumber)
		return appendLenencString([]byte{3}, string(appendLenencString([]byte{0}, set)))
	}
	if !c.tracks("last_gtid") {
		return nil
	}
	c.gtidChanged = false
	// The entry of type 0 holds a variable's name and value.
	entry := appendLenencString(appendLenencString(nil, "last_gtid"), c.lastGTID.String())
	return appendLenencString([]byte{0}, string(entry))
}

func (c *conn) sendError(e *Error) {
	b := binary.LittleEndian.AppendUint16([]byte{0xff}, e.code())
	b = append(append(b, '#'), e.state()...)
	c.write(append(b, e.Message...))
}

// sendEOF ends the column definitions; clients of our time do without it.
func (c *conn) sendEOF() {
	if c.caps&capDeprecateEOF != 0 {
		return
	}
	c.write(binary.LittleEndian.AppendUint16([]byte{0xfe, 0, 0}, c.status()))
}

// sendResult sends the answer to a statement, its rows in the binary form for a
// prepared one.
func (c *conn) sendResult(r Result, binaryRows bool) {
	if len(r.Columns) == 0 {
		c.sendOK(r, 0)
		return
	}
	cols, err := r.resolve()
	if err != nil {
		c.sendError(asError(err))
		return
	}
	c.write(appendLenenc(nil, uint64(len(cols))))
	for _, col := range cols {
		c.write(columnDefinition(col))
	}
	c.sendEOF()
	encode := appendTextRow
	if binaryRows {
		encode = appendBinaryRow
	}
	var b []byte
	for _, row := range r.Rows {
		if b, err = encode(b[:0], cols, row); err == nil && len(b) >= maxPayload {
			err = errorf(1153, "08S01", "Got a packet bigger than 'max_allowed_packet' bytes")
		}
		if err != nil {
			c.sendError(asError(err))
			return
		}
		c.write(b)
	}
	if c.caps&capDeprecateEOF != 0 {
		c.sendOK(Result{Warnings: r.Warnings}, 0xfe)
	} else {
		c.sendEOF()
	}
}

func columnDefinition(col Column) []byte {
	t := col.Type.wire()
	b := appendLenencString(nil, "def")
	b = append(b, 0, 0, 0) // no database, table or original table
	b = appendLenencString(b, col.Name)
	b = append(b, 0, 0x0c, t.charset, 0)
	b = binary.LittleEndian.AppendUint32(b, t.length)
	b = append(b, t.code)
	b = binary.LittleEndian.AppendUint16(b, t.flags)
	return append(b, t.decimals, 0, 0)
}

func appendTextRow(b []byte, cols []Column, row []any) ([]byte, error) {
	for i, v := range row {
		if isNull(v) {
			b = append(b, 0xfb)
			continue
		}
		s, err := text(cols[i], v)
		if err != nil {
			return nil, err
		}
		b = appendLenencString(b, s)
	}
	return b, nil
}

func isNull(v any) bool {
	if b, ok := v.([]byte); ok {
		return b == nil
	}
	return v == nil
}

func appendBinaryRow(b []byte, cols []Column, row []any) ([]byte, error) {
	b = append(b, 0)
	mask := len(b)
	b = append(b, make([]byte, (len(cols)+7+2)/8)...)
	for i, v := range row {
		if isNull(v) {
			b[mask+(i+2)/8] |= 1 << ((i + 2) % 8)
			continue
		}
		s, err := text(cols[i], v)
		if err != nil {
			return nil, err
		}
		switch cols[i].Type {
		case Int:
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return nil, unfit(cols[i], v)
			}
			b = binary.LittleEndian.AppendUint64(b, uint64(n))
		case Uint:
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				return nil, unfit(cols[i], v)
			}
			b = binary.LittleEndian.AppendUint64(b, n)
		case Float:
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				return nil, unfit(cols[i], v)
			}
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
		case DateTime, Date:
			b = appendBinaryTime(b, v.(time.Time).UTC(), cols[i].Type == Date)
		default:
			b = appendLenencString(b, s)
		}
	}
	return b, nil
}

func appendBinaryTime(b []byte, t time.Time, dateOnly bool) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	n := byte(11)
	if dateOnly {
		n = 4
	}
	b = binary.LittleEndian.AppendUint16(append(b, n), uint16(t.Year()))
	b = append(b, byte(t.Month()), byte(t.Day()))
	if dateOnly {
		return b
	}
	b = append(b, byte(t.Hour()), byte(t.Minute()), byte(t.Second()))
	return binary.LittleEndian.AppendUint32(b, uint32(t.Nanosecond()/1000))
}

func unfit(col Column, v any) error {
	return fmt.Errorf("the handler's value %T does not fit column %q", v, col.Name)
}

// text returns a value in the text form of its column, and an error if it does
// not fit the column, so that both protocols refuse the same values.
func text(col Column, v any) (string, error) {
	kind := typeOf(v)
	switch col.Type {
	case Int, Uint:
		if kind != Int && kind != Uint {
			return "", unfit(col, v)
		}
	case Float, Decimal:
		if kind == DateTime || kind == Bytes && col.Type == Float || kind == Text && col.Type == Float {
			return "", unfit(col, v)
		}
	case DateTime, Date:
		if kind != DateTime {
			return "", unfit(col, v)
		}
	}
	switch x := v.(type) {
	case bool:
		if x {
			return "1", nil
		}
		return "0", nil
	case string:
		return x, nil
	case []byte:
		return string(x), nil
	case float32:
		return float(col, float64(x), 32)
	case float64:
		return float(col, x, 64)
	case time.Time:
		return timeText(x, col.Type == Date), nil
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		s := fmt.Sprint(x)
		if col.Type == Uint && s[0] == '-' {
			return "", unfit(col, v)
		}
		if _, err := strconv.ParseInt(s, 10, 64); col.Type == Int && err != nil {
			return "", unfit(col, v)
		}
		return s, nil
	}
	return "", unfit(col, v)
}

// float refuses what MySQL cannot hold.
func float(col Column, f float64, bits int) (string, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "", unfit(col, f)
	}
	return strconv.FormatFloat(f, 'g', -1, bits), nil
}

func timeText(t time.Time, dateOnly bool) string {
	layout, zero := "2006-01-02 15:04:05.000000", "0000-00-00 00:00:00.000000"
	if dateOnly {
		layout, zero = layout[:10], zero[:10]
	}
	if t.IsZero() {
		return zero
	}
	return t.UTC().Format(layout)
}
