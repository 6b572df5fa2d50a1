// Package oidc is the BADGE: tells which tokens an identity provider has really
// issued, and what they claim.
//
// In comes the text of a JSON Web Token, out go its claims, or an error. The
// issuer's keys are found as OpenID Connect Discovery says, kept in memory, and
// fetched again when a token names another one. Only signatures by a key of the
// issuer count, each key with the one algorithm that it is for, so that a token
// cannot choose how it is checked. What the claims allow is not decided here.
//
// Start reading at Verify, then keys.go.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/hearth-metrics/hearth/wire"
)

const (
	maxToken = 16 << 10 // bytes; tokens with hundreds of groups have a few thousand

	// leeway is how far the issuer's clock may be from ours.
	leeway = 30 * time.Second
)

// Verifier checks the tokens of one issuer for one audience. Safe for
// concurrent use.
type Verifier struct {
	keys   *keys
	parser *jwt.Parser
	logger *slog.Logger
}

// New makes a Verifier. The issuer is asked for its keys when the first token
// comes.
func New(issuer, audience string, logger *slog.Logger) *Verifier {
	v := &Verifier{keys: newKeys(issuer, logger), logger: logger}
	v.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{rs256, es256, edDSA}),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithJSONNumber(),
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return v.keys.now() }),
	)
	return v
}

// Verify returns the claims of a token that the issuer has issued for the
// audience and that is valid now. Why another one is not goes to the log: who
// sends it is not to learn how far he has come.
func (v *Verifier) Verify(ctx context.Context, token string) (map[string]any, error) {
	claims := jwt.MapClaims{}
	if err := v.verify(ctx, token, claims); err != nil {
		var ue *wire.UserError
		if errors.As(err, &ue) {
			return nil, ue
		}
		v.logger.Debug("token of an issuer refused", "err", err)
		return nil, wire.Errorf(wire.Unauthenticated, "err-token-invalid", "the token is not valid: it is wrong, expired or revoked")
	}
	return claims, nil
}

func (v *Verifier) verify(ctx context.Context, token string, claims jwt.MapClaims) error {
	if len(token) > maxToken {
		return fmt.Errorf("it is %d bytes long, the limit is %d", len(token), maxToken)
	}
	_, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		if _, ok := t.Header["crit"]; ok {
			return nil, errors.New("it has extensions that must be understood")
		}
		id, _ := t.Header["kid"].(string)
		return v.keys.find(ctx, keyName{id, t.Method.Alg()})
	})
	return err
}
