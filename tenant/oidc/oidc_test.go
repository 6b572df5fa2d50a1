package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer is an identity provider that listens.
type issuer struct {
	t      *testing.T
	url    string
	asked  atomic.Int64 // for its keys
	mu     sync.Mutex
	about  map[string]any
	keys   []map[string]any
	status int
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, status: http.StatusOK}
	mux := http.NewServeMux()
	answer := func(of func() any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			i.mu.Lock()
			defer i.mu.Unlock()
			w.WriteHeader(i.status)
			_ = json.NewEncoder(w).Encode(of())
		}
	}
	mux.HandleFunc("/.well-known/openid-configuration", answer(func() any { return i.about }))
	mux.HandleFunc("/keys", answer(func() any { i.asked.Add(1); return map[string]any{"keys": i.keys} }))
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	i.url = s.URL
	i.about = map[string]any{"issuer": i.url, "jwks_uri": i.url + "/keys"}
	return i
}

func (i *issuer) change(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// publish makes a key public.
func (i *issuer) publish(id string, key crypto.Signer, more ...string) {
	i.t.Helper()
	k := map[string]any{"kid": id, "use": "sig"}
	switch key := key.Public().(type) {
	case *rsa.PublicKey:
		k["kty"], k["n"], k["e"] = "RSA", b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes())
	case *ecdsa.PublicKey:
		raw, err := key.Bytes()
		require.NoError(i.t, err)
		k["kty"], k["crv"], k["x"], k["y"] = "EC", key.Params().Name, b64(raw[1:33]), b64(raw[33:])
	case ed25519.PublicKey:
		k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", b64(key)
	}
	for n := 0; n < len(more); n += 2 {
		k[more[n]] = more[n+1]
	}
	i.change(func() { i.keys = append(i.keys, k) })
}

// claims are those of a good token, with some changed; one that is nil goes.
func (i *issuer) claims(more ...any) jwt.MapClaims {
	c := jwt.MapClaims{"iss": i.url, "aud": "hearth", "sub": "somebody", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for n := 0; n < len(more); n += 2 {
		c[more[n].(string)] = more[n+1]
		if more[n+1] == nil {
			delete(c, more[n].(string))
		}
	}
	return c
}

func sign(t *testing.T, m jwt.SigningMethod, id string, key any, claims jwt.Claims, header ...any) string {
	t.Helper()
	token := jwt.NewWithClaims(m, claims)
	token.Header["kid"] = id
	for n := 0; n < len(header); n += 2 {
		token.Header[header[n].(string)] = header[n+1]
	}
	text, err := token.SignedString(key)
	require.NoError(t, err)
	return text
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return k
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return k
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return k
}

func verifier(i *issuer) *Verifier {
	return New(i.url, "hearth", slog.New(slog.DiscardHandler))
}

func refused(t *testing.T, v *Verifier, token, id, why string) {
	t.Helper()
	claims, err := v.Verify(t.Context(), token)
	require.ErrorContains(t, err, id, why)
	require.Nil(t, claims, why)
}

func TestTokensOfTheIssuer(t *testing.T) {
	i := newIssuer(t)
	r, e, d := rsaKey(t), ecKey(t), edKey(t)
	i.publish("r", r)
	i.publish("e", e, "alg", "ES256")
	i.publish("d", d)
	v := verifier(i)
	for _, token := range []string{
		sign(t, jwt.SigningMethodRS256, "r", r, i.claims()),
		sign(t, jwt.SigningMethodES256, "e", e, i.claims("aud", []string{"another", "hearth"})),
		sign(t, jwt.SigningMethodEdDSA, "d", d, i.claims("nbf", time.Now().Add(10*time.Second).Unix())), // a clock that goes ahead
		sign(t, jwt.SigningMethodEdDSA, "d", d, i.claims("exp", time.Now().Add(-10*time.Second).Unix())),
		sign(t, jwt.SigningMethodEdDSA, "d", d, i.claims(), "typ", "at+jwt"),
	} {
		claims, err := v.Verify(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, "somebody", claims["sub"])
	}
	require.EqualValues(t, 1, i.asked.Load(), "keys are kept")
}

// What somebody without a key of the issuer can send.
func TestTokensOfOthers(t *testing.T) {
	i := newIssuer(t)
	r, e, d := rsaKey(t), ecKey(t), edKey(t)
	i.publish("r", r)
	i.publish("e", e)
	i.publish("d", d)
	v := verifier(i)
	public, err := x509.MarshalPKIXPublicKey(r.Public())
	require.NoError(t, err)
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	good := sign(t, jwt.SigningMethodRS256, "r", r, i.claims())
	parts := strings.Split(good, ".")
	hour := time.Hour
	for why, token := range map[string]string{
		"no algorithm":                     sign(t, jwt.SigningMethodNone, "r", jwt.UnsafeAllowNoneSignatureType, i.claims()),
		"no algorithm, no signature":       b64([]byte(`{"alg":"nOnE","kid":"r"}`)) + "." + parts[1] + ".",
		"HMAC with the public key":         sign(t, jwt.SigningMethodHS256, "r", asPEM, i.claims()),
		"HMAC with the public key's bytes": sign(t, jwt.SigningMethodHS256, "r", public, i.claims()),
		"HMAC with the modulus":            sign(t, jwt.SigningMethodHS256, "r", r.N.Bytes(), i.claims()),
		"HMAC with nothing":                sign(t, jwt.SigningMethodHS256, "", []byte{}, i.claims()),
		"another key":                      sign(t, jwt.SigningMethodRS256, "r", rsaKey(t), i.claims()),
		"another key of elliptic curves":   sign(t, jwt.SigningMethodES256, "e", ecKey(t), i.claims()),
		"a key of another algorithm":       sign(t, jwt.SigningMethodEdDSA, "r", d, i.claims()),
		"another key's name":               sign(t, jwt.SigningMethodRS256, "e", r, i.claims()),
		"another hash":                     sign(t, jwt.SigningMethodRS512, "r", r, i.claims()),
		"another padding":                  sign(t, jwt.SigningMethodPS256, "r", r, i.claims()),
		"a name nobody has":                sign(t, jwt.SigningMethodRS256, "x", r, i.claims()),
		"no name":                          sign(t, jwt.SigningMethodRS256, "", r, i.claims()),
		"a name that is a number":          sign(t, jwt.SigningMethodRS256, "r", r, i.claims(), "kid", 7),
		"a key of its own":                 sign(t, jwt.SigningMethodEdDSA, "own", edKey(t), i.claims(), "jwk", map[string]string{"kty": "OKP"}, "jku", i.url+"/keys"),
		"something critical":               sign(t, jwt.SigningMethodRS256, "r", r, i.claims(), "crit", []string{"b64"}, "b64", false),
		"for others":                       sign(t, jwt.SigningMethodRS256, "r", r, i.claims("aud", "another")),
		"for others, nearly":               sign(t, jwt.SigningMethodRS256, "r", r, i.claims("aud", "hearth2")),
		"for nobody":                       sign(t, jwt.SigningMethodRS256, "r", r, i.claims("aud", nil)),
		"of another issuer":                sign(t, jwt.SigningMethodRS256, "r", r, i.claims("iss", "https://else.where")),
		"of no issuer":                     sign(t, jwt.SigningMethodRS256, "r", r, i.claims("iss", nil)),
		"expired":                          sign(t, jwt.SigningMethodRS256, "r", r, i.claims("exp", time.Now().Add(-hour).Unix())),
		"for ever":                         sign(t, jwt.SigningMethodRS256, "r", r, i.claims("exp", nil)),
		"with a time that is text":         sign(t, jwt.SigningMethodRS256, "r", r, i.claims("exp", "tomorrow")),
		"not yet":                          sign(t, jwt.SigningMethodRS256, "r", r, i.claims("nbf", time.Now().Add(hour).Unix())),
		"issued in the future":             sign(t, jwt.SigningMethodRS256, "r", r, i.claims("iat", time.Now().Add(hour).Unix())),
		"other claims":                     parts[0] + "." + b64([]byte(fmt.Sprintf(`{"iss":%q,"aud":"hearth","sub":"root","exp":9999999999}`, i.url))) + "." + parts[2],
		"a changed signature":              good[:len(good)-4] + "AAAA",
		"cut off":                          parts[0] + "." + parts[1],
		"more parts":                       good + "." + parts[2],
		"nothing":                          "",
		"dots":                             "..",
		"noise":                            "\x00\xff.\x00.\x00",
		"huge":                             sign(t, jwt.SigningMethodRS256, "r", r, i.claims("groups", strings.Repeat("x", maxToken))),
		"huge noise":                       strings.Repeat("a.", 1<<20),
		"deep":                             b64([]byte(strings.Repeat(`{"a":`, 2000))) + ".e30.",
	} {
		refused(t, v, token, "err-token-invalid", why)
	}
	_, err = v.Verify(t.Context(), good)
	require.NoError(t, err)
}

// A key that comes is known when a token names it, a key that goes is not good
// for long, and nobody makes us ask the issuer all the time.
func TestKeysAreRotated(t *testing.T) {
	i := newIssuer(t)
	old, fresh := edKey(t), edKey(t)
	i.publish("old", old)
	v := verifier(i)
	now := time.Now()
	v.keys.now = func() time.Time { return now }
	claims := i.claims("exp", now.Add(100*time.Hour).Unix())
	signedOld := sign(t, jwt.SigningMethodEdDSA, "old", old, claims)
	signedFresh := sign(t, jwt.SigningMethodEdDSA, "fresh", fresh, claims)
	ok := func(token, why string) {
		t.Helper()
		_, err := v.Verify(t.Context(), token)
		require.NoError(t, err, why)
	}
	ok(signedOld, "at first")
	for range 100 {
		refused(t, v, sign(t, jwt.SigningMethodEdDSA, "made-up", fresh, claims), "err-token-invalid", "nobody's")
	}
	require.EqualValues(t, 1, i.asked.Load())

	i.publish("fresh", fresh)
	now = now.Add(refreshPause)
	ok(signedFresh, "the new key")
	ok(signedOld, "both")
	require.EqualValues(t, 2, i.asked.Load())

	i.change(func() { i.keys = i.keys[1:] })
	now = now.Add(refreshAfter + time.Second)
	refused(t, v, signedOld, "err-token-invalid", "withdrawn")
	ok(signedFresh, "the other one stays")
	require.EqualValues(t, 3, i.asked.Load())

	// The issuer is away.
	i.change(func() { i.status = http.StatusBadGateway })
	now = now.Add(keepFor)
	ok(signedFresh, "for a day")
	refused(t, v, signedOld, "err-issuer-unavailable", "who knows")
	now = now.Add(time.Second)
	refused(t, v, signedFresh, "err-issuer-unavailable", "not for longer")
	i.change(func() { i.status = http.StatusOK })
	now = now.Add(refreshPause)
	ok(signedFresh, "it is back")
}

// Many that need a key at the same time ask once.
func TestOneAsksForAll(t *testing.T) {
	i := newIssuer(t)
	k := edKey(t)
	i.publish("k", k)
	v := verifier(i)
	token := sign(t, jwt.SigningMethodEdDSA, "k", k, i.claims())
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, i.asked.Load())
}

// An issuer whose documents are not as they should be has no keys.
func TestIssuersThatAreNotTrusted(t *testing.T) {
	for why, spoil := range map[string]func(*issuer){
		"another name":        func(i *issuer) { i.about["issuer"] = i.url + "/" },
		"keys without TLS":    func(i *issuer) { i.about["jwks_uri"] = "http://keys.example.com/" },
		"keys in a file":      func(i *issuer) { i.about["jwks_uri"] = "file:///etc/passwd" },
		"keys elsewhere":      func(i *issuer) { i.about["jwks_uri"] = i.url + "/elsewhere" },
		"no place for keys":   func(i *issuer) { delete(i.about, "jwks_uri") },
		"away":                func(i *issuer) { i.status = http.StatusInternalServerError },
		"no keys":             func(i *issuer) { i.keys = nil },
		"keys for encryption": func(i *issuer) { i.keys[0]["use"] = "enc" },
		"secrets as keys":     func(i *issuer) { i.keys = []map[string]any{{"kty": "oct", "kid": "k", "k": "c2VjcmV0"}} },
		"another algorithm":   func(i *issuer) { i.keys[0]["alg"] = "HS256" },
		"a short key":         func(i *issuer) { i.keys[0]["x"] = "AAAA" },
		"no numbers":          func(i *issuer) { i.keys[0]["x"] = "%%%" },
		"a small RSA key": func(i *issuer) {
			i.keys = []map[string]any{{"kty": "RSA", "kid": "k", "n": b64(make([]byte, 256)), "e": "AQAB"}}
		},
		"an even exponent": func(i *issuer) {
			i.keys = []map[string]any{{"kty": "RSA", "kid": "k", "n": b64([]byte(strings.Repeat("\xff", 256))), "e": "Ag"}}
		},
		"a point on no curve": func(i *issuer) {
			i.keys = []map[string]any{{"kty": "EC", "crv": "P-256", "kid": "k", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}}
		},
	} {
		i := newIssuer(t)
		k := edKey(t)
		i.publish("k", k)
		i.change(func() { spoil(i) })
		v := verifier(i)
		_, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodEdDSA, "k", k, i.claims()))
		require.ErrorContains(t, err, "err-issuer-unavailable", why)
		require.Equal(t, wire.Unavailable, wire.KindOf(err))
	}
}

func TestCheckURL(t *testing.T) {
	for s, ok := range map[string]bool{
		"https://id.example.com": true, "https://id.example.com/realms/x": true, "http://127.0.0.1:8080": true, "http://localhost/x": true, "http://[::1]:80": true,
		"http://id.example.com": false, "id.example.com": false, "": false, "https://": false, "ftp://127.0.0.1": false, "http://localhost.evil.com": false,
	} {
		require.Equal(t, ok, CheckURL(s) == nil, s)
	}
}

// What Verify costs each request.
func BenchmarkVerify(b *testing.B) {
	for _, c := range []struct {
		name   string
		method jwt.SigningMethod
		key    crypto.Signer
	}{{"RS256", jwt.SigningMethodRS256, rsaKey(b)}, {"ES256", jwt.SigningMethodES256, ecKey(b)}, {"EdDSA", jwt.SigningMethodEdDSA, edKey(b)}} {
		b.Run(c.name, func(b *testing.B) {
			v := New("https://id", "hearth", slog.New(slog.DiscardHandler))
			v.keys.known.Store(&keySet{map[keyName]crypto.PublicKey{{"k", c.method.Alg()}: c.key.Public()}, time.Now()})
			token := jwt.NewWithClaims(c.method, jwt.MapClaims{"iss": "https://id", "aud": "hearth", "exp": time.Now().Add(time.Hour).Unix()})
			token.Header["kid"] = "k"
			text, err := token.SignedString(c.key)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
