package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// The algorithms, as tokens name them. One that is not here is refused; none of
// them is symmetric, so that what the issuer publishes signs nothing.
const (
	rs256 = "RS256"
	es256 = "ES256"
	edDSA = "EdDSA"
)

// jwk is a public key as RFC 7517 and RFC 8037 write it.
type jwk struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv"`
	N         number `json:"n"`
	E         number `json:"e"`
	X         number `json:"x"`
	Y         number `json:"y"`
}

// number is bytes in base64url.
type number []byte

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	var err error
	*n, err = base64.RawURLEncoding.DecodeString(text)
	return err
}

// readKey takes one key. The algorithm that it is for follows from its type.
func readKey(raw []byte) (keyName, crypto.PublicKey, error) {
	var k jwk
	if err := json.Unmarshal(raw, &k); err != nil {
		return keyName{}, nil, err
	}
	name := keyName{id: k.ID}
	var key crypto.PublicKey
	var err error
	switch {
	case k.Use != "" && k.Use != "sig":
		err = fmt.Errorf("it is for %q", k.Use)
	case k.Type == "RSA":
		name.algorithm = rs256
		key, err = k.rsa()
	case k.Type == "EC" && k.Curve == "P-256":
		name.algorithm = es256
		key, err = k.p256()
	case k.Type == "OKP" && k.Curve == "Ed25519":
		name.algorithm = edDSA
		key, err = k.ed25519()
	default:
		err = fmt.Errorf("its type is %q, its curve %q", k.Type, k.Curve)
	}
	if err == nil && k.Algorithm != "" && k.Algorithm != name.algorithm {
		err = fmt.Errorf("it is for the algorithm %q", k.Algorithm)
	}
	if err != nil {
		return keyName{}, nil, fmt.Errorf("key %q: %w", k.ID, err)
	}
	return name, key, nil
}

// Bounds on RSA keys: shorter ones are broken, longer ones cost what a request
// must not.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

func (k *jwk) rsa() (*rsa.PublicKey, error) {
	n, e := new(big.Int).SetBytes(k.N), new(big.Int).SetBytes(k.E)
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("it has %d bits", bits)
	}
	if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0 {
		return nil, errors.New("its exponent cannot be")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func (k *jwk) p256() (*ecdsa.PublicKey, error) {
	const size = 32
	if len(k.X) != size || len(k.Y) != size {
		return nil, errors.New("its coordinates are not 32 bytes long")
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, k.X, k.Y))
}

func (k *jwk) ed25519() (ed25519.PublicKey, error) {
	if len(k.X) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("it is %d bytes long", len(k.X))
	}
	return ed25519.PublicKey(k.X), nil
}
