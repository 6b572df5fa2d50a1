package ring

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/go-kit/log" //nolint:depguard // dskit is handed one
	"github.com/go-kit/log/level"
)

// kitLogger gives dskit, which logs in go-kit's way, our logger.
type kitLogger struct{ to *slog.Logger }

// Log implements go-kit's log.Logger.
func (k kitLogger) Log(keyvals ...any) error {
	lvl, msg := slog.LevelInfo, ""
	attrs := make([]slog.Attr, 0, len(keyvals)/2)
	for i := 0; i+1 < len(keyvals); i += 2 {
		key, value := fmt.Sprint(keyvals[i]), keyvals[i+1]
		if v, ok := value.(log.Valuer); ok {
			value = v()
		}
		switch {
		case keyvals[i] == level.Key():
			lvl = levels[fmt.Sprint(value)]
		case key == "msg":
			msg = fmt.Sprint(value)
		default:
			attrs = append(attrs, slog.Any(key, value))
		}
	}
	k.to.LogAttrs(context.Background(), lvl, msg, attrs...) //nolint:sloglint // the message is dskit's
	return nil
}

// levels calls routine what dskit calls information: it is about its own doings.
var levels = map[string]slog.Level{
	"debug": slog.LevelDebug,
	"info":  slog.LevelDebug,
	"warn":  slog.LevelWarn,
	"error": slog.LevelError,
}
