package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// queryTimeout bounds one request that asks something of a server.
const queryTimeout = 2 * time.Minute

// newClient is for asking one server: one connection, kept.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableCompression: true}}
}

// get asks the server and returns the status and the whole body.
func (s *Server) get(ctx context.Context, url, tenant string) (int, []byte, error) {
	return s.do(ctx, http.MethodGet, url, tenant)
}

func (s *Server) do(ctx context.Context, method, url, tenant string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	if tenant != "" {
		req.Header.Set("X-Scope-OrgID", tenant)
	}
	req.Header.Set("Cache-Control", "no-store") // no answers from a cache of answers
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// FlushAll makes the server bring everything it has into its store.
func (s *Server) FlushAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	status, body, err := s.do(ctx, http.MethodPost, s.Flush, "")
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if status/100 != 2 {
		return fmt.Errorf("flush: status %d: %s", status, bytes.TrimSpace(body))
	}
	return nil
}

// heapInUse is the Go heap the server reports about itself, in bytes; false
// when it reports none.
func (s *Server) heapInUse(ctx context.Context) (float64, bool) {
	status, body, err := s.get(ctx, s.URL+"/metrics", "")
	if err != nil || status != http.StatusOK {
		return 0, false
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, "go_memstats_heap_inuse_bytes "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return v, err == nil
		}
	}
	return 0, false
}
