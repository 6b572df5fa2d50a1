package oidc

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-metrics/hearth/wire"
)

const (
	// refreshAfter is how long a key that the issuer has withdrawn may still be
	// good for.
	refreshAfter = 15 * time.Minute
	// keepFor is for how long keys are good while the issuer cannot be reached.
	keepFor = 24 * time.Hour
	// refreshPause is between two requests to the issuer, whatever tokens come:
	// anybody can make one that names a key that nobody has.
	refreshPause = 10 * time.Second

	fetchTimeout = 5 * time.Second
	maxAnswer    = 1 << 20
)

// keyName is a key with the one algorithm that it is used with.
type keyName struct{ id, algorithm string }

// keySet is the keys as the issuer had them at a time.
type keySet struct {
	keys map[keyName]crypto.PublicKey
	at   time.Time
}

// keys is what is known of an issuer's keys.
type keys struct {
	issuer string
	client *http.Client
	logger *slog.Logger
	now    func() time.Time

	known atomic.Pointer[keySet] // nil: the issuer was never reached

	mu     sync.Mutex // held while the issuer is asked
	tried  time.Time
	failed bool // the last time
}

func newKeys(issuer string, logger *slog.Logger) *keys {
	return &keys{issuer: issuer, logger: logger, now: time.Now, client: &http.Client{
		Timeout:   fetchTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		// What an issuer's documents say about where its keys are is all that counts.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

var errNoKey = errors.New("it is not signed by a key of the issuer")

func errIssuer() error {
	return &wire.UserError{Kind: wire.Unavailable, ID: "err-issuer-unavailable", Msg: "tokens cannot be checked now: their issuer cannot be reached", RetryAfter: refreshPause}
}

// find returns a key of the issuer. It asks the issuer where the key is not
// known, or what is known is old.
func (k *keys) find(ctx context.Context, name keyName) (crypto.PublicKey, error) {
	set := k.known.Load()
	if key, ok := set.key(name); ok {
		if k.now().Sub(set.at) > refreshAfter && k.mu.TryLock() { // the others go on with what is known
			k.refresh(ctx)
			k.mu.Unlock()
			key, ok = k.known.Load().key(name)
		}
		switch {
		case !ok:
			return nil, errNoKey
		case k.now().Sub(k.known.Load().at) > keepFor:
			return nil, errIssuer()
		}
		return key, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known.Load() == set { // nobody has asked while this one waited
		k.refresh(ctx)
	}
	set = k.known.Load()
	key, ok := set.key(name)
	switch {
	case ok:
		return key, nil
	case set == nil || k.failed:
		return nil, errIssuer()
	}
	return nil, errNoKey
}

func (s *keySet) key(name keyName) (crypto.PublicKey, bool) {
	if s == nil {
		return nil, false
	}
	key, ok := s.keys[name]
	return key, ok
}

// refresh asks the issuer for its keys, unless that was just done. A client
// that does not wait does not end it. mu is held.
func (k *keys) refresh(ctx context.Context) {
	now := k.now()
	if !k.tried.IsZero() && now.Sub(k.tried) < refreshPause {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	found, err := k.fetch(ctx)
	k.tried, k.failed = now, err != nil
	if err != nil {
		k.logger.Warn("keys of the issuer of tokens not read, will retry", "issuer", k.issuer, "err", err)
		return
	}
	k.known.Store(&keySet{found, now})
}

// fetch reads the issuer's keys.
func (k *keys) fetch(ctx context.Context) (map[keyName]crypto.PublicKey, error) {
	var about struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &about); err != nil {
		return nil, err
	}
	if about.Issuer != k.issuer {
		return nil, fmt.Errorf("the issuer calls itself %q, the configuration %q", about.Issuer, k.issuer)
	}
	if err := CheckURL(about.Keys); err != nil {
		return nil, fmt.Errorf("jwks_uri: %w", err)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, about.Keys, &set); err != nil {
		return nil, err
	}
	found := map[keyName]crypto.PublicKey{}
	for _, raw := range set.Keys {
		name, key, err := readKey(raw)
		if err != nil { // it may be for something else, or newer than we are
			k.logger.Debug("key of the issuer left out", "issuer", k.issuer, "err", err)
			continue
		}
		found[name] = key
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no key that can be used", about.Keys)
	}
	return found, nil
}

func (k *keys) get(ctx context.Context, from string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	res, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", from, res.Status)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	return nil
}

// CheckURL refuses places that anybody on the way could answer for: what comes
// from there decides who is let in.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	ip := net.ParseIP(u.Hostname())
	onThisMachine := u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback())
	if u.Host == "" || (u.Scheme != "https" && (u.Scheme != "http" || !onThisMachine)) {
		return fmt.Errorf("want an https URL, got %q", s)
	}
	return nil
}
