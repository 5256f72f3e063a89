package changefeed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// serveTLS starts a gateway with a certificate, and answers its address and the option that trusts it.
func serveTLS(t *testing.T, g *gateway) (string, Option) {
	t.Helper()
	certified := httptest.NewTLSServer(nil)
	t.Cleanup(certified.Close)
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	server := credentials.NewServerTLSFromCert(&certified.TLS.Certificates[0])
	return serve(t, g, grpc.Creds(server)), WithTLS(&tls.Config{RootCAs: roots})
}

func TestATokenThatCannotBeHadIsWaitedFor(t *testing.T) {
	authorized := make(chan []string, 1)
	target, trusting := serveTLS(t, &gateway{subscribe: func(_ *pb.SubscribeRequest, to subscriber) error {
		authorized <- metadata.ValueFromIncomingContext(to.Context(), "authorization")
		return to.Send(opened("t", time.Hour))
	}})
	tries := 0
	source := func(context.Context) (string, error) {
		tries++
		switch tries {
		case 1:
			return "", errOwn
		case 2:
			return "secret\n", nil
		}
		return "secret", nil
	}
	var told []error
	tell := WithReconnects(func(err error, _ time.Duration) { told = append(told, err) })
	client := dialled(t, target, trusting, WithBearer(source))
	for _, err := range client.Tail(context.Background(), &pb.ResourceAddress{}, Now(), tell) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if got := said(t, authorized); len(got) != 1 || got[0] != "Bearer secret" {
		t.Errorf("the gateway was given %q", got)
	}
	if len(told) != 2 || !strings.Contains(told[0].Error(), errOwn.Error()) {
		t.Fatalf("told of %v", told)
	}
	for _, err := range told {
		if !errors.Is(err, TransientFailure) || strings.Contains(err.Error(), "secret") {
			t.Errorf("told of %v", err)
		}
	}
}

func TestWhatCanBeNoTokenIsUnavailableAndNeverShown(t *testing.T) {
	for _, token := range []string{"", " ", "secret ", "sec ret", "secret\r\nx: y", "secret\x00", "secr\u00e9t", "secret\x7f", "\xff"} {
		_, err := bearer(func(context.Context) (string, error) { return token, nil }).GetRequestMetadata(context.Background())
		if status.Code(err) != codes.Unavailable || !isRetryable(FromError(err)) || strings.Contains(err.Error(), "sec") {
			t.Errorf("%q: %v", token, err)
		}
	}
	got, err := bearer(func(context.Context) (string, error) { return "!~", nil }).GetRequestMetadata(context.Background())
	if err != nil || got["authorization"] != "Bearer !~" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAStatusOfATokensSourceIsKept(t *testing.T) {
	target, trusting := serveTLS(t, &gateway{})
	client := dialled(t, target, trusting, WithBearer(func(context.Context) (string, error) {
		return "", status.Error(codes.Unauthenticated, "no such user")
	}))
	_, err := client.ReadPage(context.Background(), &pb.ReadChangesRequest{})
	if !errors.Is(err, AuthenticationFailed) || isRetryable(err) {
		t.Errorf("got %v", err)
	}
}

func TestTLSWithoutAConfigurationIsTLS(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client := dialled(t, listener.Addr().String(), WithTLS(nil))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go client.ReadPage(ctx, &pb.ReadChangesRequest{})
	connection, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	const handshake = 22
	if first := make([]byte, 1); !reads(connection, first) || first[0] != handshake {
		t.Errorf("it begins with %q", first)
	}
}

func reads(connection net.Conn, into []byte) bool {
	_, err := connection.Read(into)
	return err == nil
}
