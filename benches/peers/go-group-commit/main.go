// A receiver of WeCom's directory callbacks, to be measured beside wecom-dirsync.
//
// The settings are environment variables: PEER_LISTEN, PEER_PATH, PEER_DB, PEER_TOKEN, PEER_AES_KEY, PEER_RECEIVE_ID.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// WeCom's events have a few kilobytes.
const maxBody = 64 * 1024

func main() {
	commit := flag.String("commit", "group", "group: one transaction for all events that wait; each: one for every event")
	version := flag.Bool("version", false, "print the versions and exit")
	flag.Parse()
	if *version {
		sqlite, _, _ := sqlite3.Version()
		fmt.Printf("%s, SQLite %s\n", runtime.Version(), sqlite)
		return
	}
	if err := run(*commit); err != nil {
		log.Fatal(err)
	}
}

func run(commit string) error {
	group := maxGroup
	switch commit {
	case "group":
	case "each":
		group = 1
	default:
		return fmt.Errorf("-commit is group or each, not %q", commit)
	}
	keys, err := NewKeys(os.Getenv("PEER_TOKEN"), os.Getenv("PEER_AES_KEY"), os.Getenv("PEER_RECEIVE_ID"))
	if err != nil {
		return err
	}
	store, err := OpenStore(os.Getenv("PEER_DB"), group)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", os.Getenv("PEER_LISTEN"))
	if err != nil {
		return err
	}
	path := os.Getenv("PEER_PATH")
	mux := http.NewServeMux()
	mux.Handle(path, &handler{keys: keys, store: store})
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	log.Printf("ready: callbacks=http://%s%s", listener.Addr(), path)

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	select {
	case err := <-ended:
		return err
	case <-stop.Done():
	}
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		return err
	}
	return store.Close()
}

type handler struct {
	keys  *Keys
	store *Store
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "bad body", http.StatusBadRequest)
		return
	}
	query := r.URL.Query()
	payload, err := h.keys.Open(query.Get("msg_signature"), query.Get("timestamp"), query.Get("nonce"), body)
	if err != nil {
		status := http.StatusBadRequest
		if errors.Is(err, errSignature) {
			status = http.StatusForbidden
		}
		http.Error(w, "refused", status)
		return
	}
	event, err := ParseEvent(payload)
	if err != nil {
		http.Error(w, "bad event", http.StatusBadRequest)
		return
	}
	// WeCom takes an answer other than 200 for a failure and sends the event again.
	if err := h.store.Save(event); err != nil {
		log.Printf("not stored: %v", err)
		http.Error(w, "not stored", http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "success")
}
