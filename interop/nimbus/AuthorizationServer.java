import com.nimbusds.jose.JOSEException;
import com.nimbusds.jose.JWSHeader;
import com.nimbusds.jose.jwk.AsymmetricJWK;
import com.nimbusds.jose.jwk.JWK;
import com.nimbusds.jose.util.X509CertUtils;
import com.nimbusds.oauth2.sdk.ErrorObject;
import com.nimbusds.oauth2.sdk.OAuth2Error;
import com.nimbusds.oauth2.sdk.TokenIntrospectionSuccessResponse;
import com.nimbusds.oauth2.sdk.auth.ClientAuthentication;
import com.nimbusds.oauth2.sdk.auth.ClientAuthenticationMethod;
import com.nimbusds.oauth2.sdk.auth.Secret;
import com.nimbusds.oauth2.sdk.auth.X509CertificateConfirmation;
import com.nimbusds.oauth2.sdk.auth.verifier.ClientAuthenticationVerifier;
import com.nimbusds.oauth2.sdk.auth.verifier.ClientCredentialsSelector;
import com.nimbusds.oauth2.sdk.auth.verifier.Context;
import com.nimbusds.oauth2.sdk.auth.verifier.InvalidClientException;
import com.nimbusds.oauth2.sdk.auth.verifier.JWTAudienceCheck;
import com.nimbusds.oauth2.sdk.auth.verifier.PKIClientX509CertificateBindingVerifier;
import com.nimbusds.oauth2.sdk.client.ClientMetadata;
import com.nimbusds.oauth2.sdk.http.HTTPRequest;
import com.nimbusds.oauth2.sdk.http.JakartaServletUtils;
import com.nimbusds.oauth2.sdk.id.Audience;
import com.nimbusds.oauth2.sdk.id.ClientID;
import com.nimbusds.oauth2.sdk.token.BearerAccessToken;
import com.nimbusds.oauth2.sdk.util.JSONObjectUtils;
import com.nimbusds.oauth2.sdk.util.X509CertificateUtils;
import jakarta.servlet.annotation.WebServlet;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.PublicKey;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import net.minidev.json.JSONObject;

/**
 * Stands for the Connect2id server: it reads the header that op.tls.clientX509CertHeader names, and
 * leaves every judgement to the libraries of the same makers.
 *
 * The file that the property "clients" names holds a JSON object: client_id to metadata (RFC 7591).
 */
@WebServlet({"/token", "/introspect", "/resource"})
public class AuthorizationServer extends HttpServlet {
    private static final String HEADER = System.getProperty("op.tls.clientX509CertHeader");
    private final Map<String, X509CertificateConfirmation> tokens = new ConcurrentHashMap<>();
    private final ClientAuthenticationVerifier<ClientMetadata> verifier =
        new ClientAuthenticationVerifier<>(
            new Registered(), new Subjects(), Set.of(new Audience("server")), JWTAudienceCheck.STRICT);

    @Override
    protected void doPost(HttpServletRequest request, HttpServletResponse response) throws IOException {
        JSONObject answer = new JSONObject();
        int status = 200;
        try {
            HTTPRequest http = JakartaServletUtils.createHTTPRequest(request);
            X509Certificate certificate = certificate(request);
            http.setClientX509Certificate(certificate);
            describe(certificate, answer);
            switch (request.getServletPath()) {
                case "/token" -> token(http, certificate, answer);
                case "/introspect" -> introspect(http, answer);
                default -> status = resource(request, certificate, answer);
            }
        } catch (Refused refused) {
            status = refused.error.getHTTPStatusCode();
            answer.put("error", refused.error.getCode());
            answer.put("reason", refused.getMessage());
        }
        response.setStatus(status);
        response.setContentType("application/json");
        response.getWriter().print(answer.toJSONString());
    }

    private static X509Certificate certificate(HttpServletRequest request) throws Refused {
        List<String> values = java.util.Collections.list(request.getHeaders(HEADER));
        if (values.size() > 1) {
            throw new Refused(OAuth2Error.INVALID_REQUEST, "more than one header");
        }
        try {
            return values.isEmpty() ? null : X509CertUtils.parseWithException(values.get(0));
        } catch (java.security.cert.CertificateException error) {
            throw new Refused(OAuth2Error.INVALID_REQUEST, "certificate: " + error.getMessage());
        }
    }

    private static void describe(X509Certificate certificate, JSONObject answer) {
        if (certificate != null) {
            answer.put("key", certificate.getPublicKey().getAlgorithm());
            answer.put("self_signed", X509CertificateUtils.isSelfSigned(certificate));
        }
    }

    private void token(HTTPRequest http, X509Certificate certificate, JSONObject answer) throws Refused {
        authenticate(http);
        String token = new BearerAccessToken().getValue();
        tokens.put(token, X509CertificateConfirmation.of(certificate));
        answer.put("access_token", token);
        answer.put("token_type", "Bearer");
    }

    private void introspect(HTTPRequest http, JSONObject answer) throws Refused {
        authenticate(http);
        X509CertificateConfirmation confirmation = tokens.get(parameter(http, "token"));
        TokenIntrospectionSuccessResponse.Builder builder =
            new TokenIntrospectionSuccessResponse.Builder(confirmation != null);
        if (confirmation != null) {
            builder.x509CertificateConfirmation(confirmation);
        }
        answer.putAll(builder.build().toJSONObject());
    }

    /** Checks the binding, as RFC 8705 section 3 says. */
    private int resource(HttpServletRequest request, X509Certificate certificate, JSONObject answer) {
        String token = String.valueOf(request.getHeader("Authorization")).replaceFirst("^Bearer ", "");
        X509CertificateConfirmation bound = tokens.get(token);
        boolean same = certificate != null && X509CertificateConfirmation.of(certificate).equals(bound);
        answer.put("resource", same ? "granted" : "refused");
        return same ? 200 : 401;
    }

    private void authenticate(HTTPRequest http) throws Refused {
        try {
            ClientAuthentication presented = ClientAuthentication.parse(http);
            if (presented == null) {
                throw new Refused(OAuth2Error.INVALID_CLIENT, "no client authentication");
            }
            Context<ClientMetadata> context = new Context<>();
            context.set(metadata(presented.getClientID()));
            // As section 2 wants it: the method that is registered, and no other.
            if (!presented.getMethod().equals(context.get().getTokenEndpointAuthMethod())) {
                throw new Refused(OAuth2Error.INVALID_CLIENT, "not registered: " + presented.getMethod());
            }
            verifier.verify(presented, null, context);
        } catch (InvalidClientException error) {
            throw new Refused(error.getErrorObject(), error.getMessage());
        } catch (com.nimbusds.oauth2.sdk.ParseException | JOSEException error) {
            throw new Refused(OAuth2Error.INVALID_CLIENT, error.getMessage());
        }
    }

    private static ClientMetadata metadata(ClientID client) throws Refused {
        try {
            String text = Files.readString(Path.of(System.getProperty("clients")));
            JSONObject all = JSONObjectUtils.parse(text);
            return ClientMetadata.parse(JSONObjectUtils.getJSONObject(all, client.getValue()));
        } catch (IOException | com.nimbusds.oauth2.sdk.ParseException error) {
            throw new Refused(OAuth2Error.INVALID_CLIENT, "metadata: " + error.getMessage());
        }
    }

    private static String parameter(HTTPRequest http, String name) throws Refused {
        try {
            List<String> values = http.getBodyAsFormParameters().get(name);
            return values == null ? "" : values.get(0);
        } catch (com.nimbusds.oauth2.sdk.ParseException error) {
            throw new Refused(OAuth2Error.INVALID_REQUEST, error.getMessage());
        }
    }

    /** The keys of the registered JWK set (section 2.2.2). */
    private static class Registered implements ClientCredentialsSelector<ClientMetadata> {
        @Override
        public List<Secret> selectClientSecrets(
                ClientID id, ClientAuthenticationMethod method, Context<ClientMetadata> context) {
            return null;
        }

        @Override
        public List<? extends PublicKey> selectPublicKeys(
                ClientID id, ClientAuthenticationMethod method, JWSHeader header, boolean refresh,
                Context<ClientMetadata> context) throws InvalidClientException {
            List<PublicKey> keys = new ArrayList<>();
            try {
                for (JWK key : context.get().getJWKSet().getKeys()) {
                    keys.add(((AsymmetricJWK) key).toPublicKey());
                }
            } catch (JOSEException error) {
                throw new InvalidClientException("JWK set: " + error.getMessage());
            }
            return keys;
        }
    }

    /** The registered subject (section 2.1.2). */
    private static class Subjects implements PKIClientX509CertificateBindingVerifier<ClientMetadata> {
        @Override
        public void verifyCertificateBinding(
                ClientID id, X509Certificate certificate, Context<ClientMetadata> context)
                throws InvalidClientException {
            String wanted = context.get().getTLSClientAuthSubjectDN();
            if (!certificate.getSubjectX500Principal().getName().equals(wanted)) {
                throw InvalidClientException.BAD_SECRET;
            }
        }
    }

    private static class Refused extends Exception {
        private final ErrorObject error;

        Refused(ErrorObject error, String reason) {
            super(reason);
            this.error = error;
        }
    }
}
