package rpc

import (
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/causeway-project/causeway/agent/fault"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// The largest values that are looked at at all. What a field really takes is
// the agent's to say.
const (
	maxString = 4 << 10  // bytes
	maxBytes  = 64 << 10 // a secret
	maxItems  = 4096     // of a list or map
)

// checkSizes refuses a request with an oversized value anywhere.
func checkSizes(m proto.Message) error {
	if m == nil {
		return nil
	}
	return checkMessage(m.ProtoReflect(), "")
}

func checkMessage(m protoreflect.Message, prefix string) (err error) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		field := prefix + string(fd.Name())
		switch {
		case fd.IsList():
			err = checkList(fd, v.List(), field)
		case fd.IsMap():
			err = checkMap(fd, v.Map(), field)
		default:
			err = checkValue(fd, v, field)
		}
		return err == nil
	})
	return err
}

func checkList(fd protoreflect.FieldDescriptor, l protoreflect.List, field string) error {
	if l.Len() > maxItems {
		return tooLong(field, maxItems, "items")
	}
	for i := range l.Len() {
		if err := checkValue(fd, l.Get(i), fmt.Sprintf("%s[%d]", field, i)); err != nil {
			return err
		}
	}
	return nil
}

func checkMap(fd protoreflect.FieldDescriptor, m protoreflect.Map, field string) (err error) {
	if m.Len() > maxItems {
		return tooLong(field, maxItems, "items")
	}
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if err = checkValue(fd.MapKey(), k.Value(), field); err == nil {
			err = checkValue(fd.MapValue(), v, field)
		}
		return err == nil
	})
	return err
}

func checkValue(fd protoreflect.FieldDescriptor, v protoreflect.Value, field string) error {
	switch fd.Kind() {
	case protoreflect.StringKind:
		if len(v.String()) > maxString {
			return tooLong(field, maxString, "bytes")
		}
	case protoreflect.BytesKind:
		if len(v.Bytes()) > maxBytes {
			return tooLong(field, maxBytes, "bytes")
		}
	case protoreflect.MessageKind:
		return checkMessage(v.Message(), field+".")
	}
	return nil
}

func tooLong(field string, limit int, unit string) error {
	return &fault.Error{Kind: fault.Invalid, Reason: FieldTooLong,
		Message:  fmt.Sprintf("%s is longer than %d %s; shorten it", field, limit, unit),
		Metadata: map[string]string{"field": field, "limit": fmt.Sprint(limit)}}
}

func required(field string) error {
	return &fault.Error{Kind: fault.Invalid, Reason: FieldRequired,
		Message:  field + " is missing; set it",
		Metadata: map[string]string{"field": field}}
}

func malformed(field, format string, args ...any) error {
	return &fault.Error{Kind: fault.Invalid, Reason: FieldMalformed,
		Message:  field + ": " + fmt.Sprintf(format, args...),
		Metadata: map[string]string{"field": field}}
}

// A need is a field that must not be empty.
type need struct{ field, value string }

func checkNeeds(needs ...need) error {
	for _, n := range needs {
		if n.value == "" {
			return required(n.field)
		}
	}
	return nil
}

// objectID finds the id that a mutating request is about.
func objectID(req proto.Message) string {
	switch r := req.(type) {
	case *nodev1.AttachRequest:
		return r.GetAttachment().GetId()
	case *nodev1.PrepareAttachmentRequest:
		return r.GetAttachment().GetId()
	case *nodev1.PutNetworkRequest:
		return r.GetNetwork().GetId()
	case *nodev1.UpdateNetworkRequest:
		return r.GetNetwork().GetId()
	case *nodev1.PutExportRequest:
		return r.GetExport().GetId()
	case *nodev1.PutRuleRequest:
		return strings.TrimSuffix(r.GetExport()+"/"+r.GetRule().GetId(), "/")
	case *nodev1.DeleteRuleRequest:
		return r.GetExport() + "/" + r.GetId()
	case *nodev1.RecoverRulesRequest:
		return r.GetExport()
	case *nodev1.PrepareStartRequest:
		return r.GetInstance()
	case interface{ GetId() string }:
		return r.GetId()
	}
	return ""
}

// secretsOf lists what must not appear in an answer to this request or in the
// log: the secret as it is, and without the newline that files end in.
func secretsOf(req proto.Message) []string {
	var c *nodev1.Connection
	switch r := req.(type) {
	case *nodev1.AttachRequest:
		c = r.GetAttachment().GetConnection()
	case *nodev1.PreflightAttachmentRequest:
		c = r.GetAttachment().GetConnection()
	case *nodev1.PutExportRequest:
		c = r.GetExport().GetConnection()
	}
	secret := string(c.GetSecret())
	var all []string
	for _, s := range []string{secret, strings.TrimSpace(secret)} {
		if s != "" {
			all = append(all, s)
		}
	}
	return all
}

func redact(s string, secrets []string) string {
	for _, secret := range secrets {
		s = strings.ReplaceAll(s, secret, "***")
	}
	return s
}

func reasonOf(s *status.Status) string {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
