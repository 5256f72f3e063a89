package changefeed

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Category is the portable kind of a failure, for branching. Accept others than those listed here.
type Category string

// The categories of the contract.
const (
	InvalidRequest        Category = "INVALID_REQUEST"
	CheckpointExpired     Category = "CHECKPOINT_EXPIRED"
	UnsupportedCapability Category = "UNSUPPORTED_CAPABILITY"
	NotFound              Category = "NOT_FOUND"
	AuthenticationFailed  Category = "AUTHENTICATION_FAILED"
	AuthorizationFailed   Category = "AUTHORIZATION_FAILED"
	Throttled             Category = "THROTTLED"
	TransientFailure      Category = "TRANSIENT_FAILURE"
	ProviderError         Category = "PROVIDER_ERROR"
	Internal              Category = "INTERNAL"
)

// Error lets a category be the target of errors.Is: errors.Is(err, changefeed.CheckpointExpired).
func (c Category) Error() string { return string(c) }

// Error is a call that failed. Category is for branching, Reason for telling cases apart, Error() for people.
type Error struct {
	Code     codes.Code
	Message  string
	Category Category
	// Reason says what exactly went wrong, such as TOKEN_SIGNATURE; empty when the gateway did not answer.
	Reason string
	// Retryable says whether the same call may succeed soon. It is false for PROVIDER_AUTHENTICATION_FAILED and
	// PROVIDER_AUTHORIZATION_FAILED, although their code is Unavailable: they pass when an operator has acted.
	Retryable bool
	// RetryAfter is how long the gateway asks to wait first.
	RetryAfter time.Duration
	// Provider is the database's kind, where the gateway says so.
	Provider string
	// RequestID finds the call in the gateway's logs.
	RequestID string
	// Metadata is everything else the gateway says about the failure.
	Metadata map[string]string
	// Violations are the fields of the request that were refused.
	Violations []FieldViolation
}

// ErrClosed ends everything of a client that was closed. It is final: nothing of that client succeeds again.
var ErrClosed = errors.New("the client was closed")

// FieldViolation is one field of a request that was refused.
type FieldViolation struct{ Field, Description string }

func (e *Error) Error() string {
	reason, request := e.Reason, ""
	if reason == "" {
		reason = e.Code.String()
	}
	if e.RequestID != "" {
		request = fmt.Sprintf(" [request %s]", e.RequestID)
	}
	return fmt.Sprintf("%s: %s%s", reason, e.Message, request)
}

// Is matches a Category.
func (e *Error) Is(target error) bool {
	category, ok := target.(Category)
	return ok && category == e.Category
}

// Interrupted is a stream that broke without an error of the gateway: silence, an end without farewell, a message that
// cannot be, or a farewell. The tail opens it again, so it is seen only when patience ends.
type Interrupted struct {
	Message string
	// RetryAfter is how long the gateway asks to wait first.
	RetryAfter time.Duration
	// HeartbeatMissed says that nothing arrived for two heartbeat intervals: the connection is dead, whatever it says.
	HeartbeatMissed bool
}

func (e *Interrupted) Error() string { return e.Message }

// Categories of what the way to the gateway answers: proxies and connections send no details.
var categoryWithoutDetails = map[codes.Code]Category{
	codes.Unavailable:      TransientFailure,
	codes.DeadlineExceeded: TransientFailure,
	codes.Canceled:         TransientFailure,
	codes.Internal:         TransientFailure,
	codes.Unauthenticated:  AuthenticationFailed,
	codes.PermissionDenied: AuthorizationFailed,
	codes.InvalidArgument:  InvalidRequest,
}

// lostOnTheWay tells cut connections, streams that a proxy reset, and silence; reading again is always safe. What the
// caller ended itself never comes here.
func lostOnTheWay(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.DeadlineExceeded:
		return true
	}
	return false
}

// FromError decodes what a call returned; an error that is no status is returned as it is.
func FromError(err error) error {
	if known, ok := status.FromError(err); ok && err != nil {
		return FromStatus(known.Proto())
	}
	return err
}

// FromStatus decodes a status, such as InspectContinuationTokenResponse.Problem.
func FromStatus(said *statuspb.Status) *Error {
	code := codes.Code(said.GetCode())
	if said.GetCode() < 0 || code > codes.Unauthenticated {
		code = codes.Unknown
	}
	e := &Error{Code: code, Message: said.GetMessage(), Retryable: lostOnTheWay(code), Metadata: map[string]string{}}
	for _, packed := range said.GetDetails() {
		detail, err := packed.UnmarshalNew()
		if err != nil {
			continue // What is no detail comes from somebody on the way, and the code says enough.
		}
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.take(detail)
		case *errdetails.RetryInfo:
			e.RetryAfter = span(detail.GetRetryDelay())
		case *errdetails.BadRequest:
			for _, field := range detail.GetFieldViolations() {
				e.Violations = append(e.Violations, FieldViolation{field.GetField(), field.GetDescription()})
			}
		}
	}
	if e.Category == "" {
		e.Category = ProviderError
		if category, ok := categoryWithoutDetails[code]; ok {
			e.Category = category
		}
	}
	return e
}

func (e *Error) take(info *errdetails.ErrorInfo) {
	if info.GetReason() == "" {
		return
	}
	e.Reason = info.GetReason()
	e.Retryable = info.GetMetadata()["retryable"] == "true"
	for name, value := range info.GetMetadata() {
		switch name {
		case "category":
			e.Category = Category(value)
		case "provider":
			e.Provider = value
		case "request_id":
			e.RequestID = value
		case "retryable":
		default:
			e.Metadata[name] = value
		}
	}
}

// isRetryable says whether the same call may succeed later; CHECKPOINT_EXPIRED, for one, is final.
func isRetryable(err error) bool {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.Retryable
	}
	var interrupted *Interrupted
	return errors.As(err, &interrupted)
}

// asked is how long the gateway asks to wait.
func asked(err error) time.Duration {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.RetryAfter
	}
	var interrupted *Interrupted
	if errors.As(err, &interrupted) {
		return interrupted.RetryAfter
	}
	return 0
}
