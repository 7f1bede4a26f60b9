// The Go peer: fasthttp in front, nats.go's jetstream package behind, one goroutine per connection.
//
// In: `peer PORT`, and the environment that every peer gets: BENCH_NATS_URL, BENCH_JWT_SECRET, and
// BENCH_ROUTES, the workloads' paths as JSON. Out: the gateway's answers on 127.0.0.1.
// It does what the other peers do: a token is verified once and then found in a map, request
// headers become message headers where the route says so, a batch is split without
// re-serialising, and 200 is answered only after every PubAck.
package main

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/valyala/fasthttp"
)

const (
	bodyBytesMax        = 8 << 20
	tokensMax           = 100_000
	publishesPendingMax = 65_536 // 64 connections with 100 messages each do not wait for one another
	typeCharsMax        = 64
	ackTimeout          = 5 * time.Second
)

var (
	okBody      = []byte(`{"error":null,"success":true}`)
	refusedBody = []byte(`{"error":"refused","success":false}`)
	jsonType    = []byte("application/json")
)

// Route is what a path means.
type Route struct {
	Path     string `json:"path"`
	Subject  string `json:"subject"`
	Batch    bool   `json:"batch"`
	Forwards bool   `json:"forwards"`
	Schema   bool   `json:"schema"`
}

// Event is the schema of the workloads as a type; a pointer tells a missing member from a zero.
type Event struct {
	ID       int64    `json:"id"`
	Type     *string  `json:"type"`
	Customer *string  `json:"customer"`
	Total    *float64 `json:"total"`
	Note     string   `json:"note"`
}

func satisfies(body []byte) bool {
	var event Event
	if json.Unmarshal(body, &event) != nil {
		return false
	}
	return event.ID >= 1 && event.Type != nil && utf8.RuneCountInString(*event.Type) <= typeCharsMax &&
		event.Customer != nil && *event.Customer != "" && event.Total != nil && *event.Total >= 0
}

// Tokens holds verified credentials with their expiry: a request costs one lookup.
type Tokens struct {
	secret   []byte
	parser   *jwt.Parser
	mutex    sync.RWMutex
	expiries map[string]int64
}

func (tokens *Tokens) isValid(authorization []byte) bool {
	tokens.mutex.RLock()
	expiry, known := tokens.expiries[string(authorization)] // the compiler makes no copy here
	tokens.mutex.RUnlock()
	if !known {
		expiry = tokens.verify(string(authorization))
	}
	return expiry > time.Now().Unix()
}

func (tokens *Tokens) verify(authorization string) int64 {
	_, token, _ := strings.Cut(authorization, " ")
	claims := jwt.RegisteredClaims{}
	_, err := tokens.parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
		return tokens.secret, nil
	})
	if err != nil || claims.ExpiresAt == nil {
		return 0
	}
	tokens.mutex.Lock()
	defer tokens.mutex.Unlock()
	if len(tokens.expiries) >= tokensMax {
		clear(tokens.expiries)
	}
	tokens.expiries[authorization] = claims.ExpiresAt.Unix()
	return claims.ExpiresAt.Unix()
}

// isDropped names the request headers that never become message headers; `name` is lower case.
func isDropped(name []byte) bool {
	switch string(name) {
	case "authorization", "connection", "content-length", "cookie", "expect", "http2-settings",
		"keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "x-api-key":
		return true
	}
	return bytes.HasPrefix(name, []byte("nats-")) || bytes.HasPrefix(name, []byte("proxy-"))
}

func forwardHeaders(header *fasthttp.RequestHeader) nats.Header {
	kept := make(nats.Header, 8)
	var room [64]byte
	for name, value := range header.All() {
		if !isDropped(bytes.ToLower(append(room[:0], name...))) {
			kept[string(name)] = append(kept[string(name)], string(value))
		}
	}
	return kept
}

// Service is the work behind every route, over one connection to the broker.
type Service struct {
	js     jetstream.JetStream
	tokens *Tokens
	routes map[string]*Route
}

func (service *Service) serve(ctx *fasthttp.RequestCtx) {
	status, body := service.answer(ctx)
	ctx.Response.SetStatusCode(status)
	ctx.Response.Header.SetContentTypeBytes(jsonType)
	ctx.Response.SetBodyRaw(body)
}

func (service *Service) answer(ctx *fasthttp.RequestCtx) (int, []byte) {
	route := service.routes[string(ctx.Path())]
	if route == nil || !ctx.IsPost() {
		return fasthttp.StatusNotFound, refusedBody
	}
	if !service.tokens.isValid(ctx.Request.Header.Peek("Authorization")) {
		return fasthttp.StatusUnauthorized, refusedBody
	}
	var headers nats.Header
	if route.Forwards {
		headers = forwardHeaders(&ctx.Request.Header)
	}
	body := ctx.PostBody()
	if route.Batch {
		return service.storeAll(route, body, headers)
	}
	if route.Schema && !satisfies(body) {
		return fasthttp.StatusBadRequest, refusedBody
	}
	future, err := service.publish(route, body, headers)
	if err != nil || !isAcked(future) {
		return fasthttp.StatusServiceUnavailable, refusedBody
	}
	return fasthttp.StatusOK, okBody
}

func (service *Service) storeAll(route *Route, body []byte, headers nats.Header) (int, []byte) {
	elements, err := split(body)
	if err != nil {
		return fasthttp.StatusBadRequest, refusedBody
	}
	if route.Schema {
		for _, element := range elements {
			if !satisfies(element) {
				return fasthttp.StatusBadRequest, refusedBody
			}
		}
	}
	futures := make([]jetstream.PubAckFuture, len(elements))
	for i, element := range elements {
		if futures[i], err = service.publish(route, element, headers); err != nil {
			return fasthttp.StatusServiceUnavailable, refusedBody
		}
	}
	for _, future := range futures {
		if !isAcked(future) {
			return fasthttp.StatusServiceUnavailable, refusedBody
		}
	}
	return fasthttp.StatusOK, okBody
}

func (service *Service) publish(
	route *Route, payload []byte, headers nats.Header,
) (jetstream.PubAckFuture, error) {
	message := &nats.Msg{Subject: route.Subject, Header: headers, Data: payload}
	return service.js.PublishMsgAsync(message)
}

func isAcked(future jetstream.PubAckFuture) bool {
	select {
	case <-future.Ok():
		return true
	case <-future.Err(): // a refusal, or no answer in time
		return false
	}
}

// split finds the elements of a JSON array, which it validates; each is a part of `body`.
func split(body []byte) ([]jsontext.Value, error) {
	decoder := jsontext.NewDecoder(bytes.NewBuffer(body)) // a Buffer is read where it lies
	if token, err := decoder.ReadToken(); err != nil || token.Kind() != '[' {
		return nil, fmt.Errorf("no array: %w", err)
	}
	elements := make([]jsontext.Value, 0, 128)
	for decoder.PeekKind() != ']' {
		element, err := decoder.ReadValue()
		if err != nil {
			return nil, err
		}
		elements = append(elements, element)
	}
	if _, err := decoder.ReadToken(); err != nil {
		return nil, err
	}
	return elements, nil
}

func open() (*Service, error) {
	client, err := nats.Connect(os.Getenv("BENCH_NATS_URL"), nats.SkipSubjectValidation())
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(client,
		jetstream.WithPublishAsyncMaxPending(publishesPendingMax),
		jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, err
	}
	var routes []*Route
	if err := json.Unmarshal([]byte(os.Getenv("BENCH_ROUTES")), &routes); err != nil {
		return nil, fmt.Errorf("BENCH_ROUTES: %w", err)
	}
	service := &Service{js: js, routes: make(map[string]*Route)}
	for _, route := range routes {
		service.routes[route.Path] = route
	}
	service.tokens = &Tokens{
		secret:   []byte(os.Getenv("BENCH_JWT_SECRET")),
		parser:   jwt.NewParser(jwt.WithValidMethods([]string{"HS256"})),
		expiries: make(map[string]int64),
	}
	return service, nil
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: peer PORT")
	}
	service, err := open()
	if err != nil {
		return err
	}
	server := &fasthttp.Server{
		Handler:               service.serve,
		MaxRequestBodySize:    bodyBytesMax,
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		NoDefaultContentType:  true,
	}
	return server.ListenAndServe("127.0.0.1:" + os.Args[1])
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}
