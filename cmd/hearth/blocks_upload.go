package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/tenant"
)

const (
	uploadPatience = 10 * time.Minute // with a server that says "later"
	answerPatience = 15 * time.Minute // from the last byte of a file to the answer
	validations    = 5                // how often a check that was broken off is asked for again
	maxPause       = 30 * time.Second
	pollEvery      = 5 * time.Second
)

// uploader brings blocks to a running Hearth.
type uploader struct {
	*caller
	dry    bool
	labels outside
	client *http.Client
	token  string
	pause  time.Duration // the first between tries
}

// blocksUpload brings the history of a Prometheus into a running Hearth.
func blocksUpload(c *caller, args []string) error {
	u := &uploader{caller: c, pause: 100 * time.Millisecond}
	fs := c.flags("blocks upload [-tenant <id>] <folder>...")
	fs.StringVar(&c.tenant, "tenant", os.Getenv("HEARTH_TENANT"), "the `tenant`, where the token does not say; also HEARTH_TENANT")
	fs.BoolVar(&u.dry, "dry-run", false, "only tell what would be done")
	u.labels.add(fs)
	folders, err := c.parseAny(fs, args)
	if err != nil {
		return err
	}
	if len(folders) == 0 {
		return fmt.Errorf("%w: want folders: the data folder of a Prometheus, or blocks", errUsage)
	}
	if err := u.labels.check(); err != nil {
		return err
	}
	if u.token, err = c.token(); err != nil {
		return err
	}
	dirs, err := blockFolders(folders)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is documented to be one
	transport.ResponseHeaderTimeout = answerPatience
	defer transport.CloseIdleConnections()
	u.client = &http.Client{Transport: transport}
	ctx, stop := untilSignal()
	defer stop()
	return u.all(ctx, dirs)
}

// all uploads blocks, oldest first. What fails does not keep the rest from
// being tried, unless it is nothing about the block.
func (u *uploader) all(ctx context.Context, dirs []string) error {
	metas := map[string]*bucket.Meta{}
	for _, dir := range dirs {
		meta, err := block.ReadMeta(dir)
		if err != nil {
			return err
		}
		metas[dir] = meta
	}
	slices.SortStableFunc(dirs, func(a, b string) int {
		return int(max(-1, min(1, metas[a].MinTime-metas[b].MinTime)))
	})
	j := u.journal()
	for _, dir := range dirs {
		if err := u.block(ctx, dir, metas[dir], j); err != nil {
			var no *setback
			if ctx.Err() != nil || (errors.As(err, &no) && no.fatal()) {
				return err
			}
			j.add(movedOf(metas[dir], 0), "", err)
		}
	}
	return j.close()
}

// block uploads one block, or what it has to be cut into.
func (u *uploader) block(ctx context.Context, dir string, meta *bucket.Meta, j *journal) error {
	if u.dry {
		return u.tell(ctx, dir, meta, j)
	}
	temp, err := os.MkdirTemp("", "hearth-blocks-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }() // it is in the system's folder for such
	pieces, err := plain(ctx, dir, temp, &u.labels, "")
	if err != nil {
		return err
	}
	for _, piece := range pieces {
		meta, err := block.ReadMeta(piece)
		if err != nil {
			return err
		}
		if err := u.piece(ctx, piece, meta, j); err != nil {
			return err
		}
	}
	return nil
}

// tell says what would be done with a block.
func (u *uploader) tell(ctx context.Context, dir string, meta *bucket.Meta, j *journal) error {
	add, err := u.labels.labelsOf(meta)
	if err != nil {
		return err
	}
	whole, err := block.View{Add: add}.Whole(dir)
	if err != nil {
		return err
	}
	if !whole {
		j.add(movedOf(meta, 0), resultCut, nil)
		return nil
	}
	files, err := filesOf(dir)
	if err != nil {
		return err
	}
	result := resultWould
	s, err := u.check(ctx, meta)
	var no *setback
	switch {
	case errors.As(err, &no) && no.status == http.StatusNotFound:
	case err != nil:
		return err
	case s.Result == "complete":
		result = resultThere
	}
	j.add(movedOf(meta, sizeOf(files)), result, nil)
	return nil
}

func sizeOf(files []bucket.File) (n int64) {
	for _, f := range files {
		n += f.SizeBytes
	}
	return n
}

// piece uploads a plain block: what it says of itself, the files that are not
// there yet, and then it waits for the verdict.
func (u *uploader) piece(ctx context.Context, dir string, meta *bucket.Meta, j *journal) error {
	files, err := filesOf(dir)
	if err != nil {
		return err
	}
	said := *meta
	bare(&said)
	said.Thanos.Files = files
	present, result, err := u.start(ctx, &said)
	if err != nil {
		return err
	}
	if result == "" {
		for _, f := range files {
			if slices.Contains(present, f.RelPath) {
				continue
			}
			if err := u.send(ctx, dir, meta, f); err != nil {
				return fmt.Errorf("send %s: %w", f.RelPath, err)
			}
		}
		if err := u.finish(ctx, meta); err != nil {
			return err
		}
		result = resultMoved
	}
	j.add(movedOf(meta, sizeOf(files)), result, nil)
	return nil
}

// start announces a block. result says why it need not be sent.
func (u *uploader) start(ctx context.Context, meta *bucket.Meta) (present []string, result string, err error) {
	content, err := json.Marshal(meta)
	if err != nil {
		return nil, "", err
	}
	var got struct{ Present []string }
	err = u.ask(ctx, http.MethodPost, path(meta, "start"), content, &got)
	var no *setback
	if errors.As(err, &no) {
		switch no.status {
		case http.StatusConflict:
			return nil, resultThere, nil
		case http.StatusUnprocessableEntity:
			return nil, resultOld, nil
		}
	}
	return got.Present, "", err
}

func (u *uploader) send(ctx context.Context, dir string, meta *bucket.Meta, f bucket.File) error {
	return u.again(ctx, func() error {
		file, err := os.Open(filepath.Join(dir, filepath.FromSlash(f.RelPath)))
		if err != nil {
			return err
		}
		defer file.Close()
		return u.once(ctx, http.MethodPost, path(meta, "files")+"?path="+url.QueryEscape(f.RelPath), file, f.SizeBytes, nil)
	})
}

// verdictOf is how a check of an upload is answered.
type verdictOf struct{ Result, Error string }

func (u *uploader) check(ctx context.Context, meta *bucket.Meta) (v verdictOf, err error) {
	err = u.ask(ctx, http.MethodGet, path(meta, "check"), nil, &v)
	return v, err
}

// finish has the block verified, and waits for the verdict.
func (u *uploader) finish(ctx context.Context, meta *bucket.Meta) error {
	for range validations {
		var no *setback
		err := u.ask(ctx, http.MethodPost, path(meta, "finish"), nil, nil)
		if err != nil && (!errors.As(err, &no) || no.status != http.StatusConflict) { // conflict: it is finished
			return err
		}
		v, err := u.await(ctx, meta)
		switch {
		case err != nil:
			return err
		case v.Result == "complete":
			return nil
		case v.Result == "failed":
			return errors.New(v.Error)
		}
	}
	return fmt.Errorf("its check was broken off %d times", validations)
}

// await waits for the end of a validation.
func (u *uploader) await(ctx context.Context, meta *bucket.Meta) (verdictOf, error) {
	for wait := u.pause; ; wait = min(2*wait, pollEvery) {
		v, err := u.check(ctx, meta)
		if err != nil || v.Result != "validating" {
			return v, err
		}
		if err := sleep(ctx, wait); err != nil {
			return v, err
		}
	}
}

func path(meta *bucket.Meta, verb string) string {
	return "/api/v1/upload/block/" + meta.ULID.String() + "/" + verb
}

// ask sends a small request, and again if it is worth it.
func (u *uploader) ask(ctx context.Context, method, path string, content []byte, into any) error {
	return u.again(ctx, func() error {
		return u.once(ctx, method, path, bytes.NewReader(content), int64(len(content)), into)
	})
}

// setback is an answer that is an error, and when to try again.
type setback struct {
	status int
	text   string
	after  time.Duration
}

func (r *setback) Error() string { return r.text }

// later says whether the same request may pass later.
func (r *setback) later() bool {
	return r.status == http.StatusTooManyRequests || r.status >= http.StatusInternalServerError
}

// fatal says whether no block will pass.
func (r *setback) fatal() bool {
	return r.status == http.StatusUnauthorized || r.status == http.StatusForbidden || strings.Contains(r.text, "err-block-upload-disabled")
}

// again calls f until it has an answer that counts.
func (u *uploader) again(ctx context.Context, f func() error) error {
	until := time.Now().Add(uploadPatience)
	for pause := u.pause; ; pause = min(2*pause, maxPause) {
		err := f()
		var no *setback
		var broken *url.Error
		switch {
		case err == nil, ctx.Err() != nil, time.Now().After(until):
			return err
		case errors.As(err, &no) && no.later():
			pause = max(pause, min(no.after, maxPause))
		case errors.As(err, &broken):
		default:
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// once sends a request.
func (u *uploader) once(ctx context.Context, method, path string, body io.Reader, size int64, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(u.addr, "/")+path, io.NopCloser(body))
	if err != nil {
		return err
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	if u.token != "" {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	if u.tenant != "" {
		req.Header.Set(tenant.Header, u.tenant)
	}
	res, err := u.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= http.StatusBadRequest {
		after, _ := strconv.Atoi(res.Header.Get("Retry-After")) // 0, if it does not say
		return &setback{res.StatusCode, problem(res.Status, text).Error(), time.Duration(after) * time.Second}
	}
	if into == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, into)
}
