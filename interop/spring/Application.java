package interop;

import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.RSAKey;
import com.nimbusds.jose.jwk.source.ImmutableJWKSet;
import com.nimbusds.jose.jwk.source.JWKSource;
import com.nimbusds.jose.proc.SecurityContext;
import java.security.KeyPairGenerator;
import java.security.interfaces.RSAPublicKey;
import java.util.List;
import org.apache.catalina.valves.RemoteIpValve;
import org.apache.catalina.valves.SSLValve;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.tomcat.servlet.TomcatServletWebServerFactory;
import org.springframework.boot.web.server.WebServerFactoryCustomizer;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.annotation.Order;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.config.annotation.web.configurers.oauth2.server.authorization.OAuth2AuthorizationServerConfigurer;
import org.springframework.security.oauth2.core.AuthorizationGrantType;
import org.springframework.security.oauth2.core.ClientAuthenticationMethod;
import org.springframework.security.oauth2.jwt.JwtDecoder;
import org.springframework.security.oauth2.server.authorization.client.InMemoryRegisteredClientRepository;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClient;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClientRepository;
import org.springframework.security.config.annotation.web.configuration.OAuth2AuthorizationServerConfiguration;
import org.springframework.security.oauth2.server.authorization.settings.AuthorizationServerSettings;
import org.springframework.security.oauth2.server.authorization.settings.ClientSettings;
import org.springframework.security.oauth2.server.authorization.settings.TokenSettings;
import org.springframework.security.web.SecurityFilterChain;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** Spring Authorization Server, and a resource server in the same container, behind Tomcat's SSLValve. */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
public class Application {
    public static void main(String[] arguments) {
        SpringApplication.run(Application.class, arguments);
    }

    /** The valves of docs/servers/tomcat-sslvalve.rst, in the embedded Tomcat. */
    @Bean
    WebServerFactoryCustomizer<TomcatServletWebServerFactory> valves() {
        return factory -> {
            RemoteIpValve remote = new RemoteIpValve();
            remote.setInternalProxies("127\\.0\\.0\\.1");
            remote.setProtocolHeader("X-Forwarded-Proto");
            remote.setPortHeader("X-Forwarded-Port");
            factory.addEngineValves(remote, new SSLValve());
        };
    }

    @Bean
    @Order(1)
    SecurityFilterChain authorizationServer(
            HttpSecurity http, @Value("${issued:false}") boolean issued) throws Exception {
        OAuth2AuthorizationServerConfigurer server = new OAuth2AuthorizationServerConfigurer();
        if (issued) {
            server.clientAuthentication(clients -> clients.authenticationConverter(new IssuedClients()));
        }
        http.securityMatcher(server.getEndpointsMatcher())
            .with(server, configurer -> { })
            .authorizeHttpRequests(requests -> requests.anyRequest().authenticated());
        return http.build();
    }

    @Bean
    @Order(2)
    SecurityFilterChain resourceServer(HttpSecurity http) throws Exception {
        http.authorizeHttpRequests(requests -> requests.anyRequest().authenticated())
            .oauth2ResourceServer(resource -> resource.jwt(jwt -> { }));
        return http.build();
    }

    @Bean
    RegisteredClientRepository clients(@Value("${jwks}") List<String> jwks) {
        RegisteredClient[] registered = new RegisteredClient[jwks.size() + 1];
        registered[0] = client("pki", ClientAuthenticationMethod.TLS_CLIENT_AUTH,
            ClientSettings.builder().x509CertificateSubjectDN("CN=client").build());
        for (int at = 0; at < jwks.size(); at++) {
            String name = jwks.get(at).replaceFirst(".*/", "").replaceFirst("\\.jwks\\.json", "");
            registered[at + 1] = client(name, ClientAuthenticationMethod.SELF_SIGNED_TLS_CLIENT_AUTH,
                ClientSettings.builder().jwkSetUrl(jwks.get(at)).build());
        }
        return new InMemoryRegisteredClientRepository(registered);
    }

    private static RegisteredClient client(
            String name, ClientAuthenticationMethod method, ClientSettings settings) {
        return RegisteredClient.withId(name)
            .clientId(name)
            .clientAuthenticationMethod(method)
            .authorizationGrantType(AuthorizationGrantType.CLIENT_CREDENTIALS)
            .clientSettings(settings)
            .tokenSettings(TokenSettings.builder().x509CertificateBoundAccessTokens(true).build())
            .build();
    }

    @Bean
    AuthorizationServerSettings settings(@Value("${issuer}") String issuer) {
        return AuthorizationServerSettings.builder().issuer(issuer).build();
    }

    @Bean
    JWKSource<SecurityContext> keys() throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("RSA");
        generator.initialize(2048);
        java.security.KeyPair pair = generator.generateKeyPair();
        RSAKey key = new RSAKey.Builder((RSAPublicKey) pair.getPublic())
            .privateKey(pair.getPrivate()).keyID("server").build();
        return new ImmutableJWKSet<>(new JWKSet(key));
    }

    @Bean
    JwtDecoder decoder(JWKSource<SecurityContext> keys) {
        return OAuth2AuthorizationServerConfiguration.jwtDecoder(keys);
    }

    @RestController
    static class Resource {
        @GetMapping("/resource")
        String read() {
            return "granted";
        }
    }
}
