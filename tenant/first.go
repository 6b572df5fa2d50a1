package tenant

import (
	"context"
	"errors"
	"io/fs"
	"os"
)

// operatorTokenFile is where the first operator's token is written to, in the
// data folder.
const operatorTokenFile = "operator-token"

// makeFirstToken makes an operator's token, if there is none at all, and says
// where it is. It goes to its file before it goes to the registry: a token that
// nobody knows would lock everybody out.
func (r *Registry) makeFirstToken(ctx context.Context) {
	if r.firstToken == "" || !r.Known() {
		return
	}
	e := &tokenEntry{Token: Token{ID: mintID(sharedShard), Name: "first", Scopes: Scopes(Operator)}}
	var secret string
	secret, e.hash = mintSecret(e.ID)
	written, made := false, false
	err := r.change(ctx, sharedShard, func(d *draft) error {
		made = false
		if len(d.tokens) > 0 {
			return errNoChange
		}
		if err := writeSecret(r.firstToken, secret); err != nil {
			return err
		}
		written = true
		e.CreatedAt, e.Version = d.at, d.version
		d.tokens[e.ID] = e
		d.note(ctx, sharedShard, AuditEntry{Action: "token.create", Object: e.ID, Detail: Operator.String()})
		made = true
		return nil
	})
	switch {
	case err != nil:
		if ctx.Err() == nil {
			r.logger.Warn("operator's token not made, will retry", "err", err)
		}
		return
	case made:
		r.logger.Info("operator's token made; keep it well and remove the file", "file", r.firstToken)
	case written: // another process was faster, and has the token that counts
		_ = os.Remove(r.firstToken)
	}
	r.firstToken = ""
}

// writeSecret replaces a file; only its owner may read it.
func writeSecret(path, secret string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(secret+"\n"), 0o600)
}
