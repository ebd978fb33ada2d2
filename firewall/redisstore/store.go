package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/palisade-go/palisade/firewall"
)

// Config makes a [Store].
type Config struct {
	// Client talks to Redis 5 or newer, be it one server, a cluster, or whatever
	// else go-redis has. It should be one of which the options have
	// ContextTimeoutEnabled, since a firewall waits for a short time only. The
	// store does not close it. It has no default.
	Client redis.Scripter
	// Prefix is put before every key, which has 43 bytes otherwise. Zero means
	// "palisade:"; it must not have braces, which would tie all keys to one server
	// of a cluster.
	Prefix string
}

// Store is a [firewall.Store] in Redis. Make one with [New]. It is safe for
// concurrent use, and has nothing to close.
type Store struct {
	client       redis.Scripter
	prefix       string
	take, giving *redis.Script
}

// takeScript takes ARGV[3] tokens, or only looks if that is 0. Times are in
// microseconds since a moment in 2025, so that a number in Lua, which has 53 bits,
// has them to a fraction of one. It returns how long to wait, how many are left and when all are
// there again, as text, since Redis cuts off the fractions of numbers.
const takeScript = `
local t = redis.call('TIME')
local now = (t[1] - 1750000000) * 1000000 + t[2]
local interval, burst, n = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = math.max(now, tonumber(redis.call('GET', KEYS[1])) or 0)
local after = full + math.max(n, 1) * interval
local wait = after - now - burst * interval
if wait > 0.5 then
	n = 0
else
	wait = 0
end
if n > 0 then
	full = after
	redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', math.ceil((full - now) / 1000) + 1)
end
return {string.format('%.0f', math.ceil(wait)), string.format('%.0f', math.floor(burst - (full - now) / interval + 0.001)), string.format('%.0f', math.ceil(full - now))}
`

// returnScript gives ARGV[2] tokens back.
const returnScript = `
local t = redis.call('TIME')
local now = (t[1] - 1750000000) * 1000000 + t[2]
local full = tonumber(redis.call('GET', KEYS[1])) or 0
full = full - tonumber(ARGV[1]) * tonumber(ARGV[2])
if full > now then
	redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', math.ceil((full - now) / 1000) + 1)
else
	redis.call('DEL', KEYS[1])
end
return 0
`

// New returns a store, or an error that lists every mistake. It does not talk to
// Redis yet.
func New(c Config) (*Store, error) {
	var errs []error
	if c.Client == nil {
		errs = append(errs, errors.New("redisstore: no Client, want one of go-redis"))
	}
	if c.Prefix == "" {
		c.Prefix = "palisade:"
	}
	if strings.ContainsAny(c.Prefix, "{}") {
		errs = append(errs, fmt.Errorf("redisstore: Prefix %q, want one without braces", c.Prefix))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Store{client: c.Client, prefix: c.Prefix, take: redis.NewScript(takeScript), giving: redis.NewScript(returnScript)}, nil
}

// Take implements [firewall.Store].
func (s *Store) Take(ctx context.Context, b firewall.Bucket, n int) (firewall.Quota, error) {
	got, err := s.take.Run(ctx, s.client, []string{s.prefix + b.Key}, microseconds(b.Interval), b.Burst, n).Int64Slice()
	if err != nil {
		return firewall.Quota{}, fmt.Errorf("redisstore: %w", err)
	}
	if len(got) != 3 {
		return firewall.Quota{}, fmt.Errorf("redisstore: %d numbers from the script, want 3", len(got))
	}
	return firewall.Quota{
		Limit:     b.Burst,
		Wait:      time.Duration(got[0]) * time.Microsecond,
		Remaining: int(max(0, got[1])),
		Reset:     time.Duration(got[2]) * time.Microsecond,
	}, nil
}

// Return implements [firewall.Store].
func (s *Store) Return(ctx context.Context, b firewall.Bucket, n int) error {
	if err := s.giving.Run(ctx, s.client, []string{s.prefix + b.Key}, microseconds(b.Interval), n).Err(); err != nil {
		return fmt.Errorf("redisstore: %w", err)
	}
	return nil
}

// microseconds keeps the fraction.
func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
