// Package redisstore keeps the shared limits of package firewall in Redis, for all
// processes that use the same one. It is a module of its own, so that nobody else
// needs a Redis client.
//
// [Store] implements [firewall.Store]. Each bucket is one number in Redis, the time
// at which it will be full again, which one script reads and writes: the generic
// cell rate algorithm, with the clock of Redis, so that those of the processes do
// not matter. A bucket that is full is not kept; so Redis holds as many keys as
// there are clients that were active within the time that a bucket takes to fill.
//
//	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379", ContextTimeoutEnabled: true})
//	store, err := redisstore.New(redisstore.Config{Client: client})
//	if err != nil {
//		log.Fatal(err)
//	}
//	fw, err := firewall.New(firewall.Config{
//		Store:          store,
//		StoreProcesses: 3,
//		Policy: firewall.Policy{
//			Limits:  []firewall.Limit{{ID: "per-client", Rate: 10, Burst: 30, Shared: true}},
//			Default: firewall.Accept,
//		},
//	})
//
// # Limits
//
// It asks Redis for each request that a shared limit is about, and so adds a round
// trip to it. If Redis loses what it holds, as after a restart without its file,
// every client has all its tokens again. With several Redis servers behind one
// client a key lives on one of them; a failover to one that lags behind forgets
// what was not yet copied.
package redisstore
